//! What the kernel or the host demands of the agent, sorted by what has to be done about it.
//!
//! Pure: reads requests, does nothing.

use ebfw_common::abi::{Request, request};

/// Something that an [`super::Enforcer`] has to answer.
#[derive(Debug)]
pub enum Demand {
    /// Programs ask for these.
    Requests(Vec<Request>),
    /// Cgroups came or went.
    Cgroups,
    /// Pods came, went or have other labels.
    Pods,
    /// The cluster's DNS has other addresses.
    Resolvers,
    /// Names may have expired.
    Names,
}

/// What has to be done about requests.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Sockets to destroy.
    pub(super) destroy: Vec<Request>,
    /// Whether a cgroup is waiting that the kernel does not know yet.
    pub(super) classify: bool,
    /// Kinds that this agent does not know.
    pub(super) strange: Vec<u32>,
}

impl Orders {
    /// Sorts requests. `is_known`: whether a cgroup has been classified, so that who asked late is left alone.
    pub(super) fn of(requests: Vec<Request>, is_known: impl Fn(u64) -> bool) -> Self {
        let mut orders = Self::default();
        for request in requests {
            match request.kind {
                request::DESTROY => orders.destroy.push(request),
                request::CLASSIFY => orders.classify |= !is_known(request.cgroup_id),
                kind => orders.strange.push(kind),
            }
        }
        orders
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    const KNOWN: u64 = 7;
    const NEW: u64 = 8;

    fn orders(requests: &[(u32, u64)]) -> (usize, bool, Vec<u32>) {
        let requests = requests.iter().map(|&(kind, cgroup_id)| Request {
            kind,
            cgroup_id,
            ..Request::new_zeroed()
        });
        let Orders {
            destroy,
            classify,
            strange,
        } = Orders::of(requests.collect(), |cgroup| cgroup == KNOWN);
        (destroy.len(), classify, strange)
    }

    #[test]
    fn requests_are_sorted_by_what_they_ask_for() {
        use request::{CLASSIFY, DESTROY};
        for (requests, expected, why) in [
            (&[][..], (0, false, vec![]), "nothing asked"),
            (
                &[(99, NEW), (0, NEW)],
                (0, false, vec![99, 0]),
                "unknown kinds ask for nothing else",
            ),
            (
                &[(CLASSIFY, KNOWN)],
                (0, false, vec![]),
                "asked before it was classified",
            ),
            (&[(CLASSIFY, NEW)], (0, true, vec![]), "a new cgroup"),
            (
                &[(CLASSIFY, NEW), (CLASSIFY, KNOWN)],
                (0, true, vec![]),
                "one new cgroup is enough",
            ),
            (
                &[(DESTROY, KNOWN), (DESTROY, NEW)],
                (2, false, vec![]),
                "sockets go wherever they are",
            ),
            (
                &[(DESTROY, NEW), (99, NEW), (CLASSIFY, NEW)],
                (1, true, vec![99]),
                "all at once",
            ),
        ] {
            assert_eq!(orders(requests), expected, "{why}");
        }
    }
}
