//! The data plane: takes events in, keeps the shards running, and delivers by push and by pull.

mod push;
