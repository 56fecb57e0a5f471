//! A node with a real kubelet.
