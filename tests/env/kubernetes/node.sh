#!/usr/bin/env bash
# A node with a real kubelet, `node.sh FOLDER IMAGE…`: containerd and the kubelet in namespaces of their own, so that what they start and mount
# ends with this process, which is PID 1 there. FOLDER has their settings; BRIDGE, ADDRESS, CGROUP, NAME, LABELS, KUBELET and KUBECONFIG
# come from node.rs.
set -euo pipefail
folder=$1; shift
export PATH=$PATH:/usr/sbin:/sbin

# What they write to fixed places is ours alone, and gone with us.
mkdir -p /var/lib/cni
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/lib/cni
# The kubelet would set the whole machine's kernel to its taste, and ends where it may not: it finds its taste there.
(
  cd /run
  while read -r setting value; do
    [ "$(cat "/proc/sys/$setting")" = "$value" ] && continue
    echo "$value" >"${setting//\//-}"
    mount --bind "${setting//\//-}" "/proc/sys/$setting"
  done
) <<SETTINGS
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SETTINGS

ip link add "$BRIDGE" type bridge
ip addr add "$ADDRESS/24" dev "$BRIDGE"
ip link set "$BRIDGE" up

for controller in /sys/fs/cgroup /sys/fs/cgroup/*; do
  if [ -e "$controller/cgroup.procs" ]; then mkdir -p "$controller/$CGROUP"; fi
  # All its Pods together would have one process's share of a busy machine.
  if [ -e "$controller/$CGROUP/cpu.shares" ]; then echo 8192 >"$controller/$CGROUP/cpu.shares"; fi
done
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  for controller in cpuset cpu io memory pids; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || :
  done
  if [ -e "/sys/fs/cgroup/$CGROUP/cpu.weight" ]; then echo 800 >"/sys/fs/cgroup/$CGROUP/cpu.weight"; fi
fi

containerd --config "$folder/containerd.toml" >"$folder/containerd.log" 2>&1 &
control() { ctr --address "$folder/containerd.sock" --namespace k8s.io "$@"; }
until control version >/dev/null 2>&1; do
  kill -0 $! || { tail "$folder/containerd.log"; exit 1; }
  sleep 0.1
done

# What holds a Pod's namespaces: an image of one static program.
pause=$folder/pause
mkdir -p "$pause/root/bin"
cp "$(type -P busybox)" "$pause/root/bin/busybox"
tar -C "$pause/root" --owner=0 --group=0 -cf "$pause/layer.tar" .
layer=$(sha256sum "$pause/layer.tar" | cut -d ' ' -f 1)
architecture=$(uname -m | sed -e 's/x86_64/amd64/' -e 's/aarch64/arm64/')
cat >"$pause/config.json" <<JSON
{"architecture": "$architecture", "os": "linux", "config": {"Entrypoint": ["/bin/busybox", "sleep", "2147483647"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}}
JSON
echo '[{"Config": "config.json", "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}]' >"$pause/manifest.json"
tar -C "$pause" -cf "$folder/pause.tar" config.json manifest.json layer.tar
for image in "$folder/pause.tar" "$@"; do control images import "$image" >/dev/null; done

"$KUBELET" --config "$folder/kubelet.json" --kubeconfig "$KUBECONFIG" --root-dir "$folder/kubelet" --hostname-override "$NAME" \
  --node-ip "$ADDRESS" --node-labels "$LABELS" >"$folder/kubelet.log" 2>&1 &
wait -n || :
echo "containerd or the kubelet has ended:"
tail -n 20 "$folder/containerd.log" "$folder/kubelet.log"
exit 1
