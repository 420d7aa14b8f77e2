package kubelet

import (
	"context"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

const (
	// The real kubelet's lease is valid for 40 s and renewed every 10 s. The node lifecycle controller marks a node as
	// unknown if its lease was not renewed for node-monitor-grace-period.
	leaseSeconds       = 40
	leaseRenewInterval = 5 * time.Second
	nodeStatusInterval = 5 * time.Second
)

// registerNode creates the Node, or takes over an existing one of this name, and reports it as ready.
func registerNode(ctx context.Context, client kubernetes.Interface, options *options, logPort int32) error {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: options.node, Labels: map[string]string{
		v1.LabelHostname: options.node, v1.LabelOSStable: "linux", v1.LabelArchStable: "amd64",
	}}}
	for key, value := range options.labels {
		node.Labels[key] = value
	}
	for _, text := range options.taints {
		taint, err := parseTaint(text)
		if err != nil {
			return err
		}
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !errors.IsAlreadyExists(err) {
		return fmt.Errorf("node %s: %w", options.node, err)
	}
	cpu, err := resource.ParseQuantity(options.cpu)
	if err != nil {
		return fmt.Errorf("--cpu: %w", err)
	}
	memory, err := resource.ParseQuantity(options.memory)
	if err != nil {
		return fmt.Errorf("--memory: %w", err)
	}
	// Controllers update the Node too, so this update can conflict.
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := client.CoreV1().Nodes().Get(ctx, options.node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		describeNode(node, cpu, memory, logPort)
		_, err = client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
		return err
	})
}

func describeNode(node *v1.Node, cpu, memory resource.Quantity, logPort int32) {
	node.Status.Capacity = v1.ResourceList{
		v1.ResourceCPU: cpu, v1.ResourceMemory: memory, v1.ResourcePods: resource.MustParse("110"),
	}
	node.Status.Allocatable = node.Status.Capacity
	node.Status.Addresses = []v1.NodeAddress{
		{Type: v1.NodeInternalIP, Address: address}, {Type: v1.NodeHostName, Address: node.Name},
	}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = logPort
	node.Status.NodeInfo.KubeletVersion = "v0.0.0-test"
	node.Status.NodeInfo.ContainerRuntimeVersion = "process://1"
	setReady(node)
}

// keepNodeReady renews the lease, and reports the node as ready again if a controller has marked it as unknown. It does
// not recreate a deleted Node: the real kubelet registers only when it starts.
func keepNodeReady(ctx context.Context, client kubernetes.Interface, name string) {
	leases := lease.NewController(clock.RealClock{}, client, name, leaseSeconds, nil, leaseRenewInterval, name,
		v1.NamespaceNodeLease, nil)
	go leases.Run(ctx)
	ticker := time.NewTicker(nodeStatusInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err == nil && !isReady(node) {
			setReady(node)
			_, err = client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
		}
		if err != nil && ctx.Err() == nil {
			klog.ErrorS(err, "the status of the node", "node", name)
		}
	}
}

func isReady(node *v1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == v1.NodeReady {
			return condition.Status == v1.ConditionTrue
		}
	}
	return false
}

func setReady(node *v1.Node) {
	now := metav1.Now()
	node.Status.Conditions = []v1.NodeCondition{{
		Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status",
		LastHeartbeatTime: now, LastTransitionTime: now,
	}}
}

func parseTaint(text string) (v1.Taint, error) {
	keyAndValue, effect, _ := strings.Cut(text, ":")
	key, value, found := strings.Cut(keyAndValue, "=")
	if !found || effect == "" {
		return v1.Taint{}, fmt.Errorf("--taint %s: not KEY=VALUE:EFFECT", text)
	}
	return v1.Taint{Key: key, Value: value, Effect: v1.TaintEffect(effect)}, nil
}
