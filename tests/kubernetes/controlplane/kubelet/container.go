package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"s3haul.test/kubernetes/spec"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// The longest termination message, and the longest end of a log that replaces it (FallbackToLogsOnError), in bytes.
	maxTerminationMessage = 4096
	maxLogInMessage       = 2048
)

// process is a container that has been started.
type process struct {
	command         *exec.Cmd
	started         time.Time
	exited          chan struct{}
	finished        time.Time
	code            int
	killedForMemory bool
}

// containerDirectory holds a container's layers, its log, and its termination log.
func (w *worker) containerDirectory(name string) string {
	return filepath.Join(w.directory, "containers", name)
}

func (w *worker) logPath(name string) string {
	return filepath.Join(w.containerDirectory(name), "log")
}

func (w *worker) terminationLog(name string) string {
	return filepath.Join(w.containerDirectory(name), "termination-log")
}

// describe decides how to start a container. The real kubelet reports its error as CreateContainerConfigError: the pod
// stays Pending, and the kubelet retries until it succeeds.
func (w *worker) describe(ctx context.Context, container *v1.Container, image *image) (*spec.Container, error) {
	variables, err := environment(ctx, w.volumes.sources, w.pod, container, w.pods.services)
	if err != nil {
		return nil, err
	}
	directory := w.containerDirectory(container.Name)
	hostname := w.pod.Spec.Hostname
	if hostname == "" {
		hostname = w.pod.Name
	}
	described := &spec.Container{
		Hostname:  hostname,
		RootFS:    image.rootFS,
		Upper:     filepath.Join(directory, "upper"),
		Work:      filepath.Join(directory, "work"),
		Merged:    filepath.Join(directory, "merged"),
		Directory: "/",
	}
	if err := w.identity(described, container, image); err != nil {
		return nil, err
	}
	expand := func(texts []string) (expanded []string) {
		for _, text := range texts {
			expanded = append(expanded, expansion.Expand(text, expansion.MappingFuncFor(variables)))
		}
		return expanded
	}
	// `command` replaces the image's entry point and arguments, `args` only its arguments.
	switch {
	case len(container.Command) > 0:
		described.Arguments = append(expand(container.Command), expand(container.Args)...)
	case len(container.Args) > 0:
		described.Arguments = append(slices.Clone(image.Entrypoint), expand(container.Args)...)
	default:
		described.Arguments = append(slices.Clone(image.Entrypoint), image.Cmd...)
	}
	if len(described.Arguments) == 0 {
		return nil, errors.New("no command specified")
	}
	described.Directory = cmpOr(container.WorkingDir, image.WorkingDir, "/")
	// The runtime's variables come first, then those of the image. HOME is / if /etc/passwd does not have the user.
	described.Environment = append([]string{"PATH=" + defaultPath, "HOSTNAME=" + hostname, "HOME=/"}, image.Env...)
	for name, value := range variables {
		described.Environment = append(described.Environment, name+"="+value)
	}
	described.Mounts, err = w.mounts(container)
	return described, err
}

func cmpOr(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// identity decides the user, the groups, and the privileges. The container's security context comes before the pod's,
// and that before the image.
func (w *worker) identity(described *spec.Container, container *v1.Container, image *image) error {
	user, group, err := image.ids()
	if err != nil {
		return err
	}
	described.User, described.Group = user, group
	nonRoot := false
	if context := w.pod.Spec.SecurityContext; context != nil {
		setInt(&described.User, context.RunAsUser)
		setInt(&described.Group, context.RunAsGroup)
		for _, group := range context.SupplementalGroups {
			described.Groups = append(described.Groups, int(group))
		}
		if context.FSGroup != nil {
			described.Groups = append(described.Groups, int(*context.FSGroup))
		}
		nonRoot = isTrue(context.RunAsNonRoot)
	}
	if context := container.SecurityContext; context != nil {
		setInt(&described.User, context.RunAsUser)
		setInt(&described.Group, context.RunAsGroup)
		if context.RunAsNonRoot != nil {
			nonRoot = *context.RunAsNonRoot
		}
		described.ReadOnlyRoot = isTrue(context.ReadOnlyRootFilesystem)
		described.NoNewPrivileges = context.AllowPrivilegeEscalation != nil && !*context.AllowPrivilegeEscalation
		if context.Capabilities != nil {
			described.DropCapabilities = slices.Contains(context.Capabilities.Drop, "ALL")
		}
	}
	if nonRoot && described.User == 0 {
		return errors.New("container has runAsNonRoot and image will run as root")
	}
	return nil
}

func setInt(target *int, value *int64) {
	if value != nil {
		*target = int(*value)
	}
}

// mounts lists the volumes of a container, its termination log, and the files about its network.
func (w *worker) mounts(container *v1.Container) ([]spec.Mount, error) {
	hosts := filepath.Join(w.directory, "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n::1 localhost\n127.0.0.1 "+w.pod.Name+"\n"), 0o644); err != nil {
		return nil, err
	}
	mounts := []spec.Mount{
		{Source: hosts, Target: "/etc/hosts"},
		{Source: "/etc/resolv.conf", Target: "/etc/resolv.conf", ReadOnly: true},
	}
	for _, mount := range container.VolumeMounts {
		source := filepath.Join(w.volumes.path(mount.Name), mount.SubPath)
		for _, volume := range w.pod.Spec.Volumes {
			if volume.Name == mount.Name && volume.EmptyDir != nil && volume.EmptyDir.Medium == v1.StorageMediumMemory {
				source = ""
				options := "mode=1777"
				if limit := volume.EmptyDir.SizeLimit; limit != nil {
					options += ",size=" + strconv.FormatInt(limit.Value(), 10)
				}
				mounts = append(mounts, spec.Mount{Target: mount.MountPath, Options: options})
			}
		}
		if source != "" {
			mounts = append(mounts, spec.Mount{Source: source, Target: mount.MountPath, ReadOnly: mount.ReadOnly})
		}
	}
	path := cmpOr(container.TerminationMessagePath, v1.TerminationMessagePathDefault)
	return append(mounts, spec.Mount{Source: w.terminationLog(container.Name), Target: path}), nil
}

// start starts a container. It returns an error if the program could not be started.
func (w *worker) start(container *v1.Container, described *spec.Container) (*process, error) {
	for _, directory := range []string{described.Upper, described.Work, described.Merged} {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return nil, err
		}
	}
	// The container's user, whoever it is, writes to it.
	if err := os.WriteFile(w.terminationLog(container.Name), nil, 0o666); err != nil {
		return nil, err
	}
	if err := os.Chmod(w.terminationLog(container.Name), 0o666); err != nil {
		return nil, err
	}
	// The process itself writes to the file, so that logging continues while the kubelet is stopped, as with a real
	// runtime.
	log, err := os.OpenFile(w.logPath(container.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	specOut, specIn, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	errorOut, errorIn, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer errorOut.Close()
	command := exec.Command(w.pods.options.runtime)
	command.Env = []string{}
	command.Stdout, command.Stderr = log, log
	command.ExtraFiles = []*os.File{spec.SpecFD - 3: specOut, spec.ErrorFD - 3: errorIn}
	namespaces := uintptr(syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC)
	// With shareProcessNamespace, the program is not process 1. Here, it shares the machine's PID namespace instead of the
	// pod's.
	if share := w.pod.Spec.ShareProcessNamespace; share == nil || !*share {
		namespaces |= syscall.CLONE_NEWPID
	}
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: namespaces}
	err = command.Start()
	specOut.Close()
	errorIn.Close()
	if err != nil {
		specIn.Close()
		return nil, err
	}
	started := &process{command: command, started: time.Now(), exited: make(chan struct{})}
	go started.wait()
	err = json.NewEncoder(specIn).Encode(described)
	specIn.Close()
	if reason, _ := io.ReadAll(errorOut); len(reason) > 0 {
		err = fmt.Errorf("failed to create containerd task: %s", reason)
	}
	if err != nil {
		command.Process.Kill()
		<-started.exited
		return nil, err
	}
	// Scenarios signal the process by its pid outside the namespace.
	pid := strconv.Itoa(command.Process.Pid)
	return started, os.WriteFile(filepath.Join(w.containerDirectory(container.Name), "pid"), []byte(pid), 0o644)
}

func (p *process) wait() {
	p.command.Wait()
	p.finished = time.Now()
	status := p.command.ProcessState.Sys().(syscall.WaitStatus)
	p.code = status.ExitStatus()
	if status.Signaled() {
		p.code = 128 + int(status.Signal())
	}
	close(p.exited)
}

// signal sends a signal to a container. It has no effect on a process that has ended.
func (p *process) signal(signal os.Signal) {
	p.command.Process.Signal(signal)
}

// residentBytes returns the resident memory of the container's first process, or 0 after its end.
func (p *process) residentBytes() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.command.Process.Pid))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// terminated returns the state of a container that has ended.
func (w *worker) terminated(container *v1.Container, p *process) *v1.ContainerStateTerminated {
	state := &v1.ContainerStateTerminated{
		ExitCode:    int32(p.code),
		Reason:      "Completed",
		StartedAt:   atSecond(p.started),
		FinishedAt:  atSecond(p.finished),
		ContainerID: w.containerID(container.Name),
		Message:     head(w.terminationLog(container.Name)),
	}
	if p.code != 0 {
		state.Reason = "Error"
		if state.Message == "" && container.TerminationMessagePolicy == v1.TerminationMessageFallbackToLogsOnError {
			state.Message = tail(w.logPath(container.Name))
		}
	}
	if p.killedForMemory {
		state.Reason = "OOMKilled"
	}
	return state
}

func head(path string) string {
	text, _ := os.ReadFile(path)
	return string(text[:min(len(text), maxTerminationMessage)])
}

func tail(path string) string {
	text, _ := os.ReadFile(path)
	return string(text[max(0, len(text)-maxLogInMessage):])
}
