// etcd for the control plane of the tests: the server of go.etcd.io as it is. It is a module of its own, because
// Kubernetes pins other versions of what both depend on.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
