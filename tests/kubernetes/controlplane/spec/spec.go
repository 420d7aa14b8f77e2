// Package spec is what the kubelet tells the container program about the container to start.
package spec

// File descriptors of the container program, beside the standard three.
const (
	// SpecFD is read to its end: a Container as JSON.
	SpecFD = 3
	// ErrorFD takes the reason why the container could not be started. It closes without a byte when the container runs.
	ErrorFD = 4
)

// Container is a container as the runtime starts it.
type Container struct {
	Hostname string
	// RootFS is the directory of the image, Upper, Work, and Merged those of the overlay above it.
	RootFS, Upper, Work, Merged string
	ReadOnlyRoot                bool
	Mounts                      []Mount
	Directory                   string
	User, Group                 int
	Groups                      []int
	DropCapabilities            bool
	NoNewPrivileges             bool
	Arguments                   []string
	Environment                 []string
}

// Mount binds a file or directory of the machine into the container. Without a source it is memory (tmpfs).
type Mount struct {
	Source, Target string
	ReadOnly       bool
	// Options are those of a tmpfs.
	Options string
}
