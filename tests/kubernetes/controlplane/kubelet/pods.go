package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pods has a worker for each pod of the node.
type pods struct {
	client   kubernetes.Interface
	options  *options
	services map[string]string
	events   record.EventRecorder

	lock    sync.Mutex
	workers map[types.UID]*worker
}

func newPods(client kubernetes.Interface, config *rest.Config, options *options) *pods {
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return &pods{
		client:   client,
		options:  options,
		services: serviceVariables(config.Host),
		events:   broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: options.node}),
		workers:  map[types.UID]*worker{},
	}
}

// watch follows the pods that are bound to this node until the context ends.
func (p *pods) watch(ctx context.Context) error {
	onThisNode := informers.WithTweakListOptions(func(list *metav1.ListOptions) {
		list.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", p.options.node).String()
	})
	factory := informers.NewSharedInformerFactoryWithOptions(p.client, 0, onThisNode)
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(pod any) { p.update(ctx, pod.(*v1.Pod)) },
		UpdateFunc: func(_, pod any) { p.update(ctx, pod.(*v1.Pod)) },
		DeleteFunc: func(object any) {
			if last, isUnknown := object.(cache.DeletedFinalStateUnknown); isUnknown {
				object = last.Obj
			}
			p.remove(object.(*v1.Pod))
		},
	}
	if _, err := factory.Core().V1().Pods().Informer().AddEventHandler(handler); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	return nil
}

func (p *pods) update(ctx context.Context, pod *v1.Pod) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if known, found := p.workers[pod.UID]; found {
		known.seen(pod)
		return
	}
	created := newWorker(p, pod)
	p.workers[pod.UID] = created
	go func() {
		created.run(ctx)
		// The real kubelet removes the directory of a pod, including its logs, once the API server has deleted the pod.
		created.waitUntilGone(ctx)
		p.lock.Lock()
		delete(p.workers, pod.UID)
		p.lock.Unlock()
		if err := os.RemoveAll(created.directory); err != nil {
			logError(err, pod, "remove its directory")
		}
	}()
}

// remove tells the worker that the API server has deleted its pod, for example by force.
func (p *pods) remove(pod *v1.Pod) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if known, found := p.workers[pod.UID]; found {
		known.gone()
	}
}

func (p *pods) find(namespace, name string) *worker {
	p.lock.Lock()
	defer p.lock.Unlock()
	for _, each := range p.workers {
		if each.pod.Namespace == namespace && each.pod.Name == name {
			return each
		}
	}
	return nil
}

// archive copies the logs of an ended pod to a place where they stay, as a log collector does.
func (w *worker) archive() {
	if w.pods.options.archive == "" {
		return
	}
	directory := filepath.Join(w.pods.options.archive, w.pod.Namespace, w.pod.Name)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		logError(err, w.pod, "archive")
		return
	}
	for _, container := range w.pod.Spec.Containers {
		text, err := os.ReadFile(w.logPath(container.Name))
		if err == nil {
			err = os.WriteFile(filepath.Join(directory, container.Name+".log"), text, 0o644)
		}
		if err != nil && !os.IsNotExist(err) {
			logError(err, w.pod, "archive")
		}
	}
}

func (w *worker) event(kind, reason, format string, values ...any) {
	w.pods.events.Event(w.pod, kind, reason, fmt.Sprintf(format, values...))
}

// waitUntilGone waits until the API server has deleted the pod.
func (w *worker) waitUntilGone(ctx context.Context) {
	for !w.isGone() && ctx.Err() == nil {
		w.waitForNews(ctx, time.Hour)
	}
}
