// Command controlplane is a Kubernetes control plane in one program. The API server, the controller manager, and the
// scheduler are Kubernetes' own packages, unchanged; the kubelet is that of package kubelet. The first argument selects
// one of them.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/pkg/controller/job"

	"s3haul.test/kubernetes/kubelet"
)

func main() {
	commands := map[string]func() *cobra.Command{
		"apiserver":          apiserver.NewAPIServerCommand,
		"controller-manager": newControllerManagerCommand,
		"scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kubelet":            kubelet.NewCommand,
	}
	var name string
	if len(os.Args) > 1 {
		name = os.Args[1]
	}
	command, found := commands[name]
	if !found {
		fmt.Fprintln(os.Stderr, "usage: controlplane apiserver|controller-manager|scheduler|kubelet [FLAGS]")
		os.Exit(2)
	}
	os.Args = os.Args[1:]
	os.Exit(cli.Run(command()))
}

// newControllerManagerCommand returns the controller manager with a shorter pause before a Job's failed pod is replaced
// (usually 10 s, doubling up to 10 min), so that scenarios are fast. The controller's logic is unchanged.
func newControllerManagerCommand() *cobra.Command {
	job.DefaultJobPodFailureBackOff = 200 * time.Millisecond
	job.MaxJobPodFailureBackOff = 2 * time.Second
	return controllermanager.NewControllerManagerCommand()
}
