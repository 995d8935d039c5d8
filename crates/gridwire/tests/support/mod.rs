//! What scenario tests need: the real program as a child process, a small HTTP client, the management calls,
//! and webhooks to deliver to. Nothing here knows how the program works inside.

#![allow(dead_code, unused_imports, reason = "every test program uses a part of it")]

pub(crate) mod arm;
pub(crate) mod client;
pub(crate) mod dev;
pub(crate) mod endpoint;
pub(crate) mod events;
pub(crate) mod load;
pub(crate) mod metrics;
pub(crate) mod outside;
pub(crate) mod pull;
pub(crate) mod server;
pub(crate) mod sink;
pub(crate) mod time;

pub(crate) use arm::Arm;
pub(crate) use client::{Answer, Client, Request};
pub(crate) use server::{Launch, Server, program};
pub(crate) use sink::{Delivery, Reply, Sink};
pub(crate) use time::{now, wait_for};
