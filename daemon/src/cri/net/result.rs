//! What a network answered: addresses. Pure.

use std::net::IpAddr;

use serde_json::Value;

use super::super::record::Network;

/// The addresses in the results of networks, those of the first one first; of its addresses the preferred family first, if `preference`
/// is a family.
pub fn addresses(networks: &[Network], preference: &str) -> Vec<String> {
    let mut all: Vec<IpAddr> = Vec::new();
    // Further networks are a pod's own business.
    if let Some(first) = networks.first() {
        let result: Value = serde_json::from_str(&first.result).unwrap_or_default();
        all.extend(of_result(&result));
    }
    let first = |address: &IpAddr| match preference {
        "ipv6" => address.is_ipv6(),
        "ipv4" => address.is_ipv4(),
        _ => true,
    };
    let (mut preferred, others): (Vec<IpAddr>, Vec<IpAddr>) = all.into_iter().partition(first);
    preferred.extend(others);
    preferred.iter().map(IpAddr::to_string).collect()
}

/// The addresses inside the pod: those of interfaces in a sandbox, and those of no interface.
fn of_result(result: &Value) -> Vec<IpAddr> {
    let parse = |text: &Value| text.as_str().and_then(|text| text.split('/').next()?.parse().ok());
    let Some(ips) = result["ips"].as_array() else {
        // Version 0.2.0 and before.
        return ["ip4", "ip6"].iter().filter_map(|family| parse(&result[*family]["ip"])).collect();
    };
    let inside = |ip: &&Value| match ip["interface"].as_u64().and_then(|at| usize::try_from(at).ok()) {
        Some(at) => result["interfaces"][at]["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty()),
        None => true,
    };
    ips.iter().filter(inside).filter_map(|ip| parse(&ip["address"])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(result: &str) -> Vec<Network> {
        vec![Network { result: result.to_owned(), ..Network::default() }]
    }

    #[test]
    fn addresses_of_all_forms() {
        let dual = r#"{"interfaces":[{"name":"br"},{"name":"eth0","sandbox":"/n"}],"ips":[
            {"address":"10.0.0.1/24","interface":0},{"address":"fd00::2/64","interface":1},{"address":"10.0.0.2/24","interface":1}]}"#;
        assert_eq!(addresses(&network(dual), "ipv4"), ["10.0.0.2", "fd00::2"]);
        assert_eq!(addresses(&network(dual), "ipv6"), ["fd00::2", "10.0.0.2"]);
        assert_eq!(addresses(&network(dual), "cni"), ["fd00::2", "10.0.0.2"]);
        assert_eq!(addresses(&network(r#"{"ip4":{"ip":"10.1.0.2/24"}}"#), "ipv4"), ["10.1.0.2"]);
        assert_eq!(addresses(&network(r#"{"ips":[{"address":"10.2.0.2/24"}]}"#), "ipv4"), ["10.2.0.2"]);
        for nothing in ["", "{}", "[]", r#"{"ips":[{"address":"x"},{"address":"1.2.3.4","interface":9}]}"#] {
            assert_eq!(addresses(&network(nothing), "ipv4"), Vec::<String>::new(), "{nothing}");
        }
        assert_eq!(addresses(&[], "ipv4"), Vec::<String>::new());
    }
}
