package kubelet

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// unsupported returns a feature that the pod requires and this kubelet lacks, or "". Such a pod fails at once with this
// text, so no test passes because a feature was silently left out.
func unsupported(pod *v1.Pod) string {
	spec := &pod.Spec
	switch {
	case spec.RestartPolicy != v1.RestartPolicyNever:
		return fmt.Sprintf("restartPolicy %s", spec.RestartPolicy)
	case len(spec.InitContainers) > 0:
		return "initContainers"
	case len(spec.EphemeralContainers) > 0:
		return "ephemeralContainers"
	case len(spec.ResourceClaims) > 0:
		return "resourceClaims"
	case spec.HostPID || spec.HostIPC:
		return "hostPID or hostIPC"
	}
	for _, volume := range spec.Volumes {
		if volume.ConfigMap == nil && volume.Secret == nil && volume.EmptyDir == nil && volume.Projected == nil &&
			volume.DownwardAPI == nil {
			return fmt.Sprintf("the kind of volume %q", volume.Name)
		}
		if volume.EmptyDir != nil && volume.EmptyDir.Medium == v1.StorageMediumMemory && len(spec.Containers) > 1 {
			return fmt.Sprintf("the medium of volume %q, shared by containers", volume.Name)
		}
	}
	for _, container := range spec.Containers {
		switch {
		case container.LivenessProbe != nil || container.ReadinessProbe != nil || container.StartupProbe != nil:
			return fmt.Sprintf("probes of container %q", container.Name)
		case container.Lifecycle != nil:
			return fmt.Sprintf("the lifecycle of container %q", container.Name)
		case container.TTY || container.Stdin:
			return fmt.Sprintf("the terminal of container %q", container.Name)
		}
	}
	return ""
}
