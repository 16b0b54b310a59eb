mod basics;
mod cut;
mod power;
mod sim;
pub(crate) mod workload;
