mod basics;
mod cut;
pub(crate) mod power;
mod sim;
pub(crate) mod workload;
