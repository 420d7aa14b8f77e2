// Command container is the second half of a container runtime: the part of runc after its clone. The kubelet starts it
// as PID 1 of new namespaces (mounts, processes, host name). It makes the container's file system, gives up its
// privileges, and becomes the container's program. It is a separate program because it must start within a millisecond,
// which a program with Kubernetes' packages does not.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"s3haul.test/kubernetes/spec"
)

func main() {
	// PR_SET_NO_NEW_PRIVS and PR_SET_PDEATHSIG apply to one thread, which must also be the one that calls exec.
	runtime.LockOSThread()
	failed := os.NewFile(spec.ErrorFD, "error")
	unix.CloseOnExec(spec.ErrorFD)
	if err := start(); err != nil {
		fmt.Fprint(failed, err)
		os.Exit(128)
	}
}

// start returns only with an error.
func start() error {
	var container spec.Container
	file := os.NewFile(spec.SpecFD, "spec")
	if err := json.NewDecoder(file).Decode(&container); err != nil {
		return fmt.Errorf("the container's description: %w", err)
	}
	file.Close()
	if err := unix.Sethostname([]byte(container.Hostname)); err != nil {
		return fmt.Errorf("sethostname: %w", err)
	}
	if err := fileSystem(&container); err != nil {
		return err
	}
	if err := os.Chdir(container.Directory); err != nil {
		return err
	}
	program, err := lookUp(container.Arguments[0], container.Environment)
	if err != nil {
		return err
	}
	if err := privileges(&container); err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", program, unix.Exec(program, container.Arguments, container.Environment))
}

// fileSystem makes the container's root and moves into it.
func fileSystem(container *spec.Container) error {
	// Keep the mounts below invisible to the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	// A colon would separate two lower directories.
	lower := strings.ReplaceAll(container.RootFS, ":", `\:`)
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, container.Upper, container.Work)
	if err := unix.Mount("overlay", container.Merged, "overlay", 0, layers); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	// This proc shows only the new PID namespace.
	proc := filepath.Join(container.Merged, "proc")
	if err := os.MkdirAll(proc, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, mount := range append(system(), container.Mounts...) {
		if err := mountOne(container.Merged, mount); err != nil {
			return fmt.Errorf("mount %s: %w", mount.Target, err)
		}
	}
	if err := os.Chdir(container.Merged); err != nil {
		return err
	}
	// pivot_root(".", ".") stacks the old root on top of the new one. Unmounting "." then removes it.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("the old root: %w", err)
	}
	if container.ReadOnlyRoot {
		if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("read-only root: %w", err)
		}
	}
	return nil
}

// system returns the mounts that every container has besides /proc: /dev with a few devices.
func system() []spec.Mount {
	mounts := []spec.Mount{{Target: "/dev", Options: "mode=755,size=65536k"}}
	for _, device := range []string{"null", "zero", "full", "random", "urandom"} {
		mounts = append(mounts, spec.Mount{Source: "/dev/" + device, Target: "/dev/" + device})
	}
	return append(mounts, spec.Mount{Target: "/dev/shm", Options: "mode=1777,size=65536k"})
}

func mountOne(root string, mount spec.Mount) error {
	target := filepath.Join(root, mount.Target)
	isDirectory := true
	if mount.Source != "" {
		information, err := os.Stat(mount.Source)
		if err != nil {
			return err
		}
		isDirectory = information.IsDir()
	}
	if err := mountPoint(target, isDirectory); err != nil {
		return err
	}
	if mount.Source == "" {
		return unix.Mount("tmpfs", target, "tmpfs", 0, mount.Options)
	}
	if err := unix.Mount(mount.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if mount.ReadOnly {
		return unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return nil
}

// mountPoint creates the directory or file to mount on, unless the image has it.
func mountPoint(target string, isDirectory bool) error {
	if isDirectory {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(target, os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return file.Close()
}

// lookUp finds a program without a slash in its name in the container's PATH.
func lookUp(program string, environment []string) (string, error) {
	for _, variable := range environment {
		if path, found := strings.CutPrefix(variable, "PATH="); found {
			os.Setenv("PATH", path)
		}
	}
	return exec.LookPath(program)
}

// privileges drops what the security contexts of the pod and its container do not allow.
func privileges(container *spec.Container) error {
	if container.DropCapabilities {
		for capability := 0; capability <= unix.CAP_LAST_CAP; capability++ {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(capability), 0, 0, 0); err != nil {
				return fmt.Errorf("drop capability %d: %w", capability, err)
			}
		}
	}
	if err := syscall.Setgroups(container.Groups); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setgid(container.Group); err != nil {
		return fmt.Errorf("setgid: %w", err)
	}
	if err := syscall.Setuid(container.User); err != nil {
		return fmt.Errorf("setuid: %w", err)
	}
	if container.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	// A real container outlives its kubelet. Here it must not: a test leaves nothing behind. setuid(2) clears this
	// setting, so it comes last.
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}
