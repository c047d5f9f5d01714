//! The rights that manifests grant.

use std::collections::BTreeSet;

use parkway_ingress::install::object::Object;

/// A right: in the whole cluster or in the system namespace, group, resource, verb.
pub(crate) type Right = (bool, String, String, String);

/// What the roles among these objects grant.
pub(crate) fn granted(objects: &[Object]) -> BTreeSet<Right> {
    let mut granted = BTreeSet::new();
    for role in objects {
        let is_cluster = match role.kind() {
            "ClusterRole" => true,
            "Role" => false,
            _ => continue,
        };
        for rule in role.list("/rules") {
            let texts = |field: &str| {
                let values = rule[field].as_array().unwrap().clone().into_iter();
                values.map(|value| value.as_str().unwrap().to_owned())
            };
            for group in texts("apiGroups") {
                for resource in texts("resources") {
                    for verb in texts("verbs") {
                        granted.insert((is_cluster, group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
    }
    granted
}
