// Command etcd is the unchanged server of go.etcd.io, for the control plane of the tests. It is a separate module,
// because Kubernetes pins other versions of their common dependencies.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
