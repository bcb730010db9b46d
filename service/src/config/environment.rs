//! The environment as a layer.

use std::ffi::OsString;

use toml::Value;

use super::{ConfigFault, Source, path::KeyPath, tree::Tree};

/// Variables with our prefix that are no configuration: the client's, and switches of the tests.
const FOREIGN_VARIABLES: [&str; 11] = [
    "SLUICE_URL",
    "SLUICE_TOKEN",
    "SLUICE_FULL_ORACLE",
    "SLUICE_KILLS",
    "SLUICE_LOAD_SECONDS",
    "SLUICE_REQUIRE_GPU",
    "SLUICE_REQUIRE_ISA",
    "SLUICE_REQUIRE_MODEL",
    "SLUICE_REQUIRE_MOUNT",
    "SLUICE_REQUIRE_SHARED",
    "SLUICE_TOGETHER_SECONDS",
];

/// Those of a process's variables that may be configuration, for [`Layers::environment`](super::Layers::environment).
/// Others need not even be text.
#[must_use]
pub fn own_variables(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(String, String)> {
    let named = variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    named
        .filter(|(name, _)| !FOREIGN_VARIABLES.contains(&name.as_str()))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

/// What a variable of ours starts with.
const PREFIX: &str = "SLUICE_";

/// What separates the levels of a key.
const SEPARATOR: &str = "__";

/// Sets what the variables say, in the order of their names: the order of an environment means nothing.
pub(super) fn overlay(tree: &mut Tree, environment: &[(String, String)], faults: &mut Vec<ConfigFault>) {
    let mut variables: Vec<_> =
        environment.iter().filter(|(name, value)| name.starts_with(PREFIX) && !is_service_link(name, value)).collect();
    variables.sort();
    for (name, text) in variables {
        let source = Source::Environment { variable: name.clone() };
        let Some(path) = key_of(name) else {
            let message = format!("not the name of a key: expected {PREFIX}KEY or {PREFIX}TABLE{SEPARATOR}KEY");
            faults.push(ConfigFault { key: name.clone(), source, message });
            continue;
        };
        // A variable has no type: what reads as TOML may have been meant as the text it is.
        match text.parse::<Value>() {
            Ok(value) => tree.overlay_spelled(&path, (&value, text), &source, faults),
            Err(_) => tree.overlay(&path, &Value::String(text.clone()), &source, faults),
        }
    }
}

/// The key a variable sets, if its name is one.
fn key_of(variable: &str) -> Option<KeyPath> {
    let name = variable.strip_prefix(PREFIX)?;
    let mut path = KeyPath::default();
    for level in name.split(SEPARATOR) {
        if level.is_empty() {
            return None;
        }
        path = path.key(level.to_lowercase());
    }
    Some(path)
}

/// Whether Kubernetes set this variable because a Service's name starts with `sluice`. It does so for
/// every Service of a pod's namespace, and a server must not refuse to start because of its own Service.
fn is_service_link(name: &str, value: &str) -> bool {
    if name.contains(SEPARATOR) {
        return false;
    }
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let names_port = || {
        let (_, port) = name.rsplit_once("_PORT_")?;
        let mut parts = port.split('_');
        let number = parts.next()?.bytes().all(|byte| byte.is_ascii_digit());
        let protocol = matches!(parts.next()?, "TCP" | "UDP" | "SCTP");
        Some(number && protocol && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR")))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_address)
        || names_port() == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_variables_are_keys() {
        let check = |name: &str, key: Option<&str>| {
            assert_eq!(key_of(name).map(|path| path.to_string()).as_deref(), key, "{name}");
        };
        check("SLUICE_SERVER__LISTEN", Some("server.listen"));
        check("SLUICE_METRICS_LISTEN", Some("metrics_listen"));
        check("SLUICE_A__B__C_D", Some("a.b.c_d"));
        check("SLUICE_", None);
        check("SLUICE___LISTEN", None);
        check("SLUICE_SERVER__", None);
        check("SLUICE_A____B", None);
        check("OTHER_A", None);
    }

    #[test]
    fn kubernetes_service_links_are_not_ours() {
        let check = |name: &str, value: &str, expected: bool| {
            assert_eq!(is_service_link(name, value), expected, "{name}={value}");
        };
        check("SLUICE_SERVICE_HOST", "10.0.0.1", true);
        check("SLUICE_SERVER_SERVICE_PORT", "50051", true);
        check("SLUICE_SERVER_SERVICE_PORT_GRPC", "50051", true);
        check("SLUICE_PORT", "tcp://10.0.0.1:50051", true);
        check("SLUICE_SERVER_PORT_50051_TCP", "tcp://10.0.0.1:50051", true);
        check("SLUICE_SERVER_PORT_50051_TCP_ADDR", "10.0.0.1", true);
        check("SLUICE_PORT", "50051", false);
        check("SLUICE_SERVER__PORT", "tcp://10.0.0.1:50051", false);
        check("SLUICE_PORT_RANGE_TCP", "1-2", false);
        check("SLUICE_LISTEN", "127.0.0.1:1", false);
    }
}
