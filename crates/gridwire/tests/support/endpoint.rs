//! How the endpoint of a subscription is treated, as the API and the metrics tell.

use serde_json::Value;

use super::client::Request;
use super::metrics;
use super::server::Server;

/// What the API tells of the endpoint of the subscription with this resource id.
#[track_caller]
pub(crate) fn endpoint(server: &Server, id: &str) -> Value {
    let request = Request::get(format!("/gridwire/v1/subscriptions/{}/endpoint", id.trim_start_matches('/')))
        .with("authorization", format!("Bearer {}", server.token));
    server.send(&request).expect(200).json()
}

/// The gauge `gridwire_delivery_endpoint_{name}` of a subscription of the topic `orders`.
pub(crate) fn gauge(server: &Server, subscription: &str, name: &str) -> Option<f64> {
    let labels = format!("{{topic=\"orders\",subscription=\"{subscription}\"}}");
    metrics::value(&server.metrics(), &format!("gridwire_delivery_endpoint_{name}{labels}"))
}
