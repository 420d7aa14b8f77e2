package kubelet

import (
	"context"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// The real kubelet retries containers after 10 to 15 s, and volumes after 0.5 s, doubling up to 2 minutes.
	retryInterval = time.Second
	// On a real node, the kernel enforces memory limits at once. Here, the worker checks the process at this interval.
	watchInterval = 500 * time.Millisecond
)

// worker runs one pod, from its binding to the node until the API server has deleted it.
type worker struct {
	pods      *pods
	pod       *v1.Pod // as first seen; its spec never changes
	directory string
	volumes   volumes
	news      chan struct{} // signals that the pod has changed

	// The fields below are shared: the worker writes them and the log server reads them, or the watch writes them.
	lock      sync.Mutex
	newest    *v1.Pod
	isRemoved bool
	startTime metav1.Time
	states    map[string]v1.ContainerState
	processes map[string]*process
	mounted   bool
	failed    bool // the pod failed as a whole, whatever the states of its containers
	reason    string
	message   string
	disrupted string
	ended     bool
}

func newWorker(pods *pods, pod *v1.Pod) *worker {
	directory := filepath.Join(pods.options.root, "pods", string(pod.UID))
	w := &worker{
		pods:      pods,
		pod:       pod,
		directory: directory,
		volumes:   volumes{sources{pods.client, pod.Namespace}, pod, filepath.Join(directory, "volumes")},
		news:      make(chan struct{}, 1),
		newest:    pod,
		startTime: atSecond(time.Now()),
		states:    map[string]v1.ContainerState{},
		processes: map[string]*process{},
	}
	for _, container := range pod.Spec.Containers {
		w.states[container.Name] = waiting("ContainerCreating", "")
	}
	return w
}

func waiting(reason, message string) v1.ContainerState {
	return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func (w *worker) seen(pod *v1.Pod) {
	w.lock.Lock()
	w.newest = pod
	w.lock.Unlock()
	w.ring()
}

func (w *worker) gone() {
	w.lock.Lock()
	w.isRemoved = true
	w.lock.Unlock()
	w.ring()
}

func (w *worker) ring() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (w *worker) latest() *v1.Pod {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.newest
}

func (w *worker) isGone() bool {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.isRemoved
}

// mustStop reports whether the pod is deleted or being deleted.
func (w *worker) mustStop() bool {
	return w.isGone() || w.latest().DeletionTimestamp != nil
}

func (w *worker) waitForNews(ctx context.Context, atMost time.Duration) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-w.news:
	case <-timer.C:
	}
}

func (w *worker) set(name string, state v1.ContainerState) {
	w.lock.Lock()
	w.states[name] = state
	w.lock.Unlock()
}

// run takes the pod from start to end, reports its end, and deletes it from the API server if it is being deleted.
func (w *worker) run(ctx context.Context) {
	switch reason := unsupported(w.pod); {
	case isTerminal(w.pod.Status.Phase):
	case reason != "":
		w.fail("UnsupportedByTestKubelet", "this kubelet does not do: "+reason)
	case w.pod.Status.Phase == v1.PodRunning:
		// The kubelet has restarted, and its containers have ended with the old process.
		w.lose()
	default:
		w.live(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	w.lock.Lock()
	w.ended = true
	w.lock.Unlock()
	if !isTerminal(w.pod.Status.Phase) {
		// Archive first: whoever sees the report must find the log.
		w.archive()
		w.report(ctx)
	}
	for !w.mustStop() && ctx.Err() == nil {
		w.waitForNews(ctx, time.Hour)
	}
	w.delete(ctx)
}

// live starts the containers and waits until they end.
func (w *worker) live(ctx context.Context) {
	if !w.mount(ctx) || !w.startAll(ctx) {
		w.kill(ctx)
		w.lose()
		return
	}
	updating, stop := context.WithCancel(ctx)
	defer stop()
	go w.volumes.keepUpToDate(updating)
	ended := make(chan struct{})
	go func() {
		for _, p := range w.processes {
			<-p.exited
		}
		w.ring()
		close(ended)
	}()
	for {
		select {
		case <-ended:
			w.collect()
			return
		default:
		}
		if ctx.Err() != nil || w.mustStop() || w.isOverLimit() {
			w.kill(ctx)
			w.collect()
			return
		}
		w.collect()
		w.waitForNews(ctx, watchInterval)
	}
}

// mount sets up the volumes. Until it succeeds, the pod is Pending (ContainerCreating) and has an event FailedMount. It
// returns false if the pod must stop.
func (w *worker) mount(ctx context.Context) bool {
	told := ""
	w.report(ctx)
	for !w.mustStop() && ctx.Err() == nil {
		err := w.volumes.setUp(ctx)
		if err == nil {
			w.lock.Lock()
			w.mounted = true
			w.lock.Unlock()
			return true
		}
		if err.Error() != told {
			told = err.Error()
			w.event(v1.EventTypeWarning, "FailedMount", "%s", told)
		}
		w.waitForNews(ctx, retryInterval)
	}
	return false
}

// startAll starts the containers in order. A container that cannot be configured waits with a reason, and is retried.
func (w *worker) startAll(ctx context.Context) bool {
	for index := range w.pod.Spec.Containers {
		container := &w.pod.Spec.Containers[index]
		told := ""
		for {
			if w.mustStop() || ctx.Err() != nil {
				return false
			}
			reason, err := w.startOne(ctx, container)
			if err == nil {
				break
			}
			if err.Error() != told {
				told = err.Error()
				w.event(v1.EventTypeWarning, "Failed", "Error: %s", told)
				w.set(container.Name, waiting(reason, told))
				w.report(ctx)
			}
			w.waitForNews(ctx, retryInterval)
		}
	}
	w.report(ctx)
	return true
}

// startOne starts a container, or returns the reason why it waits. If its program cannot be executed, the container
// does not wait: it has ended, with code 128.
func (w *worker) startOne(ctx context.Context, container *v1.Container) (reason string, err error) {
	image, err := findImage(w.pods.options.images, container.Image)
	if err != nil {
		return "ErrImagePull", err
	}
	described, err := w.describe(ctx, container, image)
	if err != nil {
		return "CreateContainerConfigError", err
	}
	started, err := w.start(container, described)
	if err != nil {
		w.event(v1.EventTypeWarning, "Failed", "Error: %s", err)
		now := atSecond(time.Now())
		w.set(container.Name, v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			ExitCode: 128, Reason: "StartError", Message: err.Error(), StartedAt: now, FinishedAt: now,
		}})
		return "", nil
	}
	w.lock.Lock()
	w.processes[container.Name] = started
	w.states[container.Name] = v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: atSecond(started.started)}}
	w.lock.Unlock()
	w.event(v1.EventTypeNormal, "Started", "Started container %s", container.Name)
	return "", nil
}

// collect records the states of the containers that have ended.
func (w *worker) collect() {
	for index := range w.pod.Spec.Containers {
		container := &w.pod.Spec.Containers[index]
		if p := w.processes[container.Name]; p != nil {
			select {
			case <-p.exited:
				w.set(container.Name, v1.ContainerState{Terminated: w.terminated(container, p)})
			default:
			}
		}
	}
}

// isOverLimit kills a container that exceeds its memory limit. It reports whether the whole pod must end, because an
// emptyDir is too large or the pod's activeDeadlineSeconds have passed.
func (w *worker) isOverLimit() bool {
	for _, container := range w.pod.Spec.Containers {
		limit, p := container.Resources.Limits.Memory().Value(), w.processes[container.Name]
		if p != nil && limit > 0 && p.residentBytes() > limit {
			p.killedForMemory = true
			p.signal(syscall.SIGKILL)
		}
	}
	if message := w.volumes.overLimit(); message != "" {
		w.event(v1.EventTypeWarning, "Evicted", "%s", message)
		w.lock.Lock()
		w.disrupted = message
		w.lock.Unlock()
		w.fail("Evicted", message)
		return true
	}
	seconds := w.latest().Spec.ActiveDeadlineSeconds
	if seconds != nil && time.Since(w.startTime.Time) > time.Duration(*seconds)*time.Second {
		w.fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
		return true
	}
	return false
}

func (w *worker) fail(reason, message string) {
	w.lock.Lock()
	defer w.lock.Unlock()
	w.failed, w.reason, w.message = true, reason, message
}

// lose marks the pod as failed if containers never started or ended unseen. The real kubelet reports 137 for them.
func (w *worker) lose() {
	w.lock.Lock()
	defer w.lock.Unlock()
	for name, state := range w.states {
		if state.Terminated == nil {
			w.failed = true
			w.states[name] = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
				ExitCode: 137, Reason: "ContainerStatusUnknown",
				Message: "The container could not be located when the pod was terminated",
			}}
		}
	}
}

// kill sends SIGTERM to the containers, waits for the grace period, and sends SIGKILL. A deletion with a shorter grace
// period shortens the wait.
func (w *worker) kill(ctx context.Context) {
	for name, p := range w.processes {
		w.event(v1.EventTypeNormal, "Killing", "Stopping container %s", name)
		p.signal(syscall.SIGTERM)
	}
	began := time.Now()
	for _, p := range w.processes {
		for isAlive(p) {
			if ctx.Err() != nil || time.Since(began) > w.gracePeriod() {
				p.signal(syscall.SIGKILL)
			}
			select {
			case <-p.exited:
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	w.collect()
}

func isAlive(p *process) bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// gracePeriod returns the grace period of the deletion or, without one, of the pod; at least a second.
func (w *worker) gracePeriod() time.Duration {
	pod := w.latest()
	seconds := int64(v1.DefaultTerminationGracePeriodSeconds)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.DeletionGracePeriodSeconds != nil {
		seconds = *pod.DeletionGracePeriodSeconds
	}
	return time.Duration(max(seconds, 1)) * time.Second
}

// delete removes the pod from the API server after the end of its containers has been reported, with grace period 0 and
// the UID as a precondition. Finalizers, such as that of the Job controller, can keep it a little longer.
func (w *worker) delete(ctx context.Context) {
	options := metav1.NewDeleteOptions(0)
	options.Preconditions = metav1.NewUIDPreconditions(string(w.pod.UID))
	for !w.isGone() && ctx.Err() == nil {
		err := w.pods.client.CoreV1().Pods(w.pod.Namespace).Delete(ctx, w.pod.Name, *options)
		if err == nil || errors.IsNotFound(err) || errors.IsConflict(err) {
			return
		}
		logError(err, w.pod, "delete")
		w.waitForNews(ctx, retryInterval)
	}
}
