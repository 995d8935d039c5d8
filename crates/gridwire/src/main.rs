//! stub
mod client;
mod data_dir;
mod output;
mod tls;
fn main() {}
