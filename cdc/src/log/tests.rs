mod basics;
mod cut;
mod sim;
pub(crate) mod workload;
