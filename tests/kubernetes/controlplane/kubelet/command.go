// Package kubelet implements a kubelet for tests: one node, whose containers are processes of this machine in their own
// namespaces. The API server, the controllers, and kubectl see the same behavior as from the real kubelet
// (k8s.io/kubernetes/pkg/kubelet); each file says which part it reproduces. Where the code of the real one can be used
// alone, it is: expansion of variables, payloads of volumes, the atomic writer, and patches of the status.
//
// A pod that needs something else is refused (see unsupported.go), never run differently.
package kubelet

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

type options struct {
	kubeconfig string
	node       string
	root       string
	images     string
	runtime    string
	archive    string
	labels     map[string]string
	taints     []string
	cpu        string
	memory     string
}

// NewCommand returns the subcommand `kubelet`.
func NewCommand() *cobra.Command {
	var options options
	command := &cobra.Command{
		Use:           "kubelet",
		Short:         "Run the pods of one node as processes",
		SilenceUsage:  true,
		SilenceErrors: false,
		RunE: func(*cobra.Command, []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return run(ctx, &options)
		},
	}
	flags := command.Flags()
	flags.StringVar(&options.kubeconfig, "kubeconfig", "", "how to reach the API server")
	flags.StringVar(&options.node, "node", "", "name of the node")
	flags.StringVar(&options.root, "root", "", "directory of the pods")
	flags.StringVar(&options.images, "images", "", "directory of the images: NAME:TAG/rootfs and NAME:TAG/config.json")
	flags.StringVar(&options.runtime, "runtime", "", "the program `container`")
	flags.StringVar(&options.archive, "archive", "", "directory that keeps the logs of pods that are gone, as a log collector does")
	flags.StringToStringVar(&options.labels, "label", nil, "labels of the node")
	flags.StringArrayVar(&options.taints, "taint", nil, "KEY=VALUE:EFFECT")
	flags.StringVar(&options.cpu, "cpu", "64", "allocatable CPUs")
	flags.StringVar(&options.memory, "memory", "64Gi", "allocatable memory; the limits of containers are enforced, this is not")
	return command
}

func run(ctx context.Context, options *options) error {
	config, err := clientcmd.BuildConfigFromFlags("", options.kubeconfig)
	if err != nil {
		return fmt.Errorf("%s: %w", options.kubeconfig, err)
	}
	config.QPS, config.Burst = 200, 400
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(options.root, "pods"), 0o755); err != nil {
		return err
	}
	pods := newPods(client, config, options)
	port, err := pods.serveLogs(ctx)
	if err != nil {
		return err
	}
	if err := registerNode(ctx, client, options, port); err != nil {
		return err
	}
	go keepNodeReady(ctx, client, options.node)
	return pods.watch(ctx)
}
