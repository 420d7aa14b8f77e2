package kubelet

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	podpatch "k8s.io/kubernetes/pkg/util/pod"
)

// address is the IP address of the node, its pods, and all servers.
const address = "127.0.0.1"

func atSecond(t time.Time) metav1.Time {
	return metav1.NewTime(t.Truncate(time.Second))
}

func logError(err error, pod *v1.Pod, what string) {
	klog.ErrorS(err, what, "pod", klog.KObj(pod))
}

func isTerminal(phase v1.PodPhase) bool {
	return phase == v1.PodSucceeded || phase == v1.PodFailed
}

// report sends the pod's status as a patch with only the changes, so that conditions of others (DisruptionTarget of an
// eviction) stay. The UID is a precondition. report retries until the API server accepts the patch or the pod is gone.
func (w *worker) report(ctx context.Context) {
	pause := 100 * time.Millisecond
	for {
		status := w.status()
		updated, _, unchanged, err := podpatch.PatchPodStatus(ctx, w.pods.client, w.pod.Namespace, w.pod.Name, w.pod.UID, w.latest().Status, *status)
		if err == nil {
			if !unchanged {
				w.seen(updated)
			}
			return
		}
		// The real kubelet also drops the report if the pod is gone or has been replaced.
		if _, getErr := w.pods.client.CoreV1().Pods(w.pod.Namespace).Get(ctx, w.pod.Name, metav1.GetOptions{}); errors.IsNotFound(getErr) || ctx.Err() != nil || w.isGone() {
			return
		}
		logError(err, w.pod, "status")
		time.Sleep(pause)
		pause = min(2*pause, 5*time.Second)
	}
}

// status returns the status that follows from the containers' states: phase, conditions, and fields that the API server
// already has.
func (w *worker) status() *v1.PodStatus {
	status := w.latest().Status.DeepCopy()
	w.lock.Lock()
	defer w.lock.Unlock()
	status.StartTime = &w.startTime
	status.HostIP, status.HostIPs = address, []v1.HostIP{{IP: address}}
	status.PodIP, status.PodIPs = address, []v1.PodIP{{IP: address}}
	status.QOSClass = w.pod.Status.QOSClass
	status.Reason, status.Message = w.reason, w.message
	status.ContainerStatuses = nil
	for index := range w.pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, w.containerStatus(&w.pod.Spec.Containers[index]))
	}
	status.Phase = w.phase(status.ContainerStatuses)
	w.conditions(status)
	return status
}

func (w *worker) containerStatus(container *v1.Container) v1.ContainerStatus {
	state := w.states[container.Name]
	running := state.Running != nil
	status := v1.ContainerStatus{
		Name: container.Name, Image: container.Image, State: state, Ready: running, Started: &running,
	}
	if state.Waiting == nil {
		status.ContainerID, status.ImageID = w.containerID(container.Name), container.Image
	}
	return status
}

func (w *worker) containerID(name string) string {
	return "process://" + string(w.pod.UID) + "/" + name
}

// phase follows getPhase of the real kubelet for restartPolicy Never: the pod has ended when all containers have.
func (w *worker) phase(statuses []v1.ContainerStatus) v1.PodPhase {
	if w.failed {
		return v1.PodFailed
	}
	waiting, running, failed := 0, 0, 0
	for _, status := range statuses {
		switch {
		case status.State.Waiting != nil:
			waiting++
		case status.State.Running != nil:
			running++
		case status.State.Terminated.ExitCode != 0:
			failed++
		}
	}
	switch {
	case waiting > 0:
		return v1.PodPending
	case running > 0:
		return v1.PodRunning
	case failed > 0:
		return v1.PodFailed
	}
	return v1.PodSucceeded
}

// conditions sets the conditions that the kubelet owns.
func (w *worker) conditions(status *v1.PodStatus) {
	ready, reason := v1.ConditionFalse, "ContainersNotReady"
	switch status.Phase {
	case v1.PodRunning:
		ready, reason = v1.ConditionTrue, ""
	case v1.PodSucceeded:
		reason = "PodCompleted"
	case v1.PodFailed:
		reason = "PodFailed"
	}
	mounted := v1.ConditionFalse
	if w.mounted && !isTerminal(status.Phase) {
		mounted = v1.ConditionTrue
	}
	initialized := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	if status.Phase == v1.PodSucceeded {
		initialized.Reason = "PodCompleted"
	}
	podutil.UpdatePodCondition(status, &v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: mounted})
	podutil.UpdatePodCondition(status, &initialized)
	podutil.UpdatePodCondition(status, &v1.PodCondition{Type: v1.PodReady, Status: ready, Reason: reason})
	podutil.UpdatePodCondition(status, &v1.PodCondition{Type: v1.ContainersReady, Status: ready, Reason: reason})
	if w.disrupted != "" {
		podutil.UpdatePodCondition(status, &v1.PodCondition{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: w.disrupted,
		})
	}
}
