// Package spec defines how the kubelet describes a container to the container program.
package spec

// File descriptors of the container program, in addition to the standard three.
const (
	// SpecFD has a Container as JSON. The program reads it to its end.
	SpecFD = 3
	// ErrorFD receives the reason why the container could not be started. It is closed without a byte once the container
	// runs.
	ErrorFD = 4
)

// Container describes a container to start.
type Container struct {
	Hostname string
	// RootFS is the directory of the image. Upper, Work, and Merged are those of the overlay above it.
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

// Mount binds a file or directory of the machine into the container. Without a source, it is a tmpfs.
type Mount struct {
	Source, Target string
	ReadOnly       bool
	// Options of a tmpfs.
	Options string
}
