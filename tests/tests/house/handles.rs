//! A server and its handles have the same calls, which `server/mod.rs`, `loan.rs`, `levers.rs` and `handle.rs` declare twice.

use super::documents::text;
use std::collections::BTreeMap;

/// What a server alone does: it is made, described and ended.
const OF_SERVERS: [&str; 8] =
    ["builder", "anonymous", "handle", "warnings", "segment_path", "address", "drain", "shutdown"];

/// Whose futures own their input, since a handle's borrow nothing.
const OWNING: [&str; 2] = ["call_async", "call_async_with"];

/// The public functions of a type, by name: each with its parameters and result, in which all lifetimes are alike.
fn functions(of: &str, sources: &[&str]) -> BTreeMap<String, String> {
    let mut functions = BTreeMap::new();
    for source in sources {
        let source = text(format!("engine/src/server/{source}"));
        let of_type =
            |block: &&str| block.lines().next().is_some_and(|line| line.contains(&format!(" {of}<")));
        for block in source.split("\nimpl").filter(of_type) {
            for function in block.split("\n    pub fn ").skip(1) {
                let signature = function.split(" {\n").next().unwrap_or_default();
                let name: String =
                    signature.chars().take_while(|&c| c == '_' || c.is_alphanumeric()).collect();
                let signature: String = signature.split_whitespace().collect();
                functions.insert(name, signature.replace("'static", "'_").replace(",)", ")"));
            }
        }
    }
    functions
}

#[test]
fn a_handle_has_each_call_of_its_server() {
    let mut server = functions("Server", &["mod.rs", "loan.rs", "levers.rs", "handle.rs"]);
    let mut handle = functions("Handle", &["levers.rs", "handle.rs"]);
    for name in OF_SERVERS {
        assert!(server.remove(name).is_some(), "a server has no {name}");
    }
    for name in OWNING {
        let pair = (server.remove(name), handle.remove(name));
        assert!(matches!(&pair, (Some(one), Some(other)) if one != other), "{name}: {pair:?}");
    }
    assert!(server.len() > 20, "{server:?}");
    for (name, call) in &server {
        assert_eq!(Some(call), handle.get(name), "of server and handle");
    }
    assert_eq!(server.len(), handle.len(), "a handle has calls that no server has: {handle:?}");
}
