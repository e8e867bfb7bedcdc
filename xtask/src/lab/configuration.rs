//! What the node's programs are told: their files, as texts.

use super::place::{
    CLUSTER_DOMAIN, DNS_SERVICE, NODE, PAUSE_IMAGE, POD_NETWORK, POD_NETWORK6, STATIC_PODS,
};

/// The pods' network: a bridge on the node, addresses from its part of the pod network.
pub(super) fn network() -> String {
    r#"{
  "cniVersion": "1.0.0",
  "name": "lab",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"#
    .to_owned()
}

/// `runtime`: the program that is called as runc.
pub(super) fn containerd(runtime: &str) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{runtime}"
      SystemdCgroup = false
"#
    )
}

/// `limits`: whether cgroups can limit anything here. `resolvers`: the file that pods without the cluster DNS get.
pub(super) fn kubelet(pki: &str, resolvers: &str, limits: bool) -> String {
    let enforced = if limits { "pods" } else { "" };
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous:
    enabled: false
  webhook:
    enabled: true
  x509:
    clientCAFile: {pki}/ca.crt
authorization:
  mode: Webhook
tlsCertFile: {pki}/kubelet-serving.crt
tlsPrivateKeyFile: {pki}/kubelet-serving.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
staticPodPath: {STATIC_PODS}
fileCheckFrequency: 1s
failCgroupV1: false
enforceNodeAllocatable: [{enforced}]
failSwapOn: false
resolvConf: {resolvers}
clusterDNS: [{DNS_SERVICE}]
clusterDomain: {CLUSTER_DOMAIN}
maxPods: 200
registryPullQPS: 0
kubeAPIQPS: 200
kubeAPIBurst: 400
eventRecordQPS: 0
serializeImagePulls: true
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 5s
evictionHard:
  memory.available: 50Mi
  nodefs.available: 1%
  nodefs.inodesFree: 1%
  imagefs.available: 1%
"
    )
}

pub(super) fn proxy(pki: &str) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection:
  kubeconfig: {pki}/proxy.kubeconfig
mode: iptables
clusterCIDR: {POD_NETWORK},{POD_NETWORK6}
hostnameOverride: {NODE}
oomScoreAdj: 0
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
"
    )
}
