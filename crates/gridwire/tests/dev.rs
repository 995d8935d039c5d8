//! Development mode, and by its clock the schedules of delivery: a day of retries in seconds.

mod support;

#[path = "dev/attributes.rs"]
mod attributes;
#[path = "dev/batches.rs"]
mod batches;
#[path = "dev/clock.rs"]
mod clock;
#[path = "dev/consent.rs"]
mod consent;
#[path = "dev/faults.rs"]
mod faults;
#[path = "dev/ladders.rs"]
mod ladders;
#[path = "dev/letters.rs"]
mod letters;
#[path = "dev/pause.rs"]
mod pause;
#[path = "dev/private_tls.rs"]
mod private_tls;
#[path = "dev/probation.rs"]
mod probation;
#[path = "dev/refused.rs"]
mod refused;
#[path = "dev/signatures.rs"]
mod signatures;
#[path = "dev/tokens.rs"]
mod tokens;
