//! Connection strings and URIs, with an environment of their own in the first line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbus::conninfo::{Config, Environment};

fuzz_target!(|text: &str| {
    let (variables, conninfo) = text.split_once('\n').unwrap_or(("", text));
    let variables = variables.split('\t').filter_map(|pair| pair.split_once('='));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment = Environment::new(variables).with_home("/home/u").with_user("u");
    if let Ok(config) = Config::parse(conninfo, &environment) {
        assert!(!config.hosts().is_empty(), "there is always a host to try");
    }
});
