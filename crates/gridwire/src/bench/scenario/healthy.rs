//! The healthy endpoints of a scenario, and the topic that they share with the sick.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::DropGuard;

use crate::bench::args::{Kind, ShapeArgs};
use crate::bench::connection::Route;
use crate::bench::setup::{Delivery, Plan};
use crate::bench::sink::{Manner, Sink};
use crate::bench::stage::Stage;

/// One topic, and endpoints that take deliveries at once, each with a port and a subscription of its own.
pub(super) struct Healthy {
    /// The topic's path, for the subscriptions of the sick.
    pub(super) topic: String,
    pub(super) publish: Route,
    pub(super) sink: Arc<Sink>,
    _stop: DropGuard,
}

impl Healthy {
    /// Makes the one topic of `shape`, with an endpoint for each of its subscriptions.
    pub(super) async fn subscribe(
        stage: &mut Stage,
        shape: &ShapeArgs,
        content_type: &str,
    ) -> anyhow::Result<Self> {
        let (sink, stop) = Sink::start_many(shape.subscriptions, Manner::Prompt).await?;
        // Each has an endpoint of its own, so they are made one by one.
        let bare = ShapeArgs { subscriptions: 0, ..shape.clone() };
        let delivery = Delivery::Push { url: "", events_max: 1 };
        let plan = Plan::new(&stage.run, Kind::Topic, &bare, content_type, delivery);
        let topic = plan.make(&mut stage.management).await?.pop().context("one topic was asked for")?;
        for (number, url) in sink.urls().enumerate() {
            let name = format!("healthy-{number}");
            stage.management.subscribe(&topic.path, &name, shape.schema, &url, 1).await?;
        }
        Ok(Self { topic: topic.path, publish: topic.publish, sink, _stop: stop })
    }
}
