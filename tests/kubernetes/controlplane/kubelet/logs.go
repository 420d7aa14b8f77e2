package kubelet

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"
)

// serveLogs serves the requests that the API server sends for `kubectl logs`. It returns the port, which the Node's
// status announces. The real kubelet serves much more (exec, port-forward, metrics) and checks credentials; this server
// listens only on the loopback interface.
func (p *pods) serveLogs(ctx context.Context) (int32, error) {
	certificate, key, err := cert.GenerateSelfSignedCertKey(p.options.node, []net.IP{net.ParseIP(address)}, nil)
	if err != nil {
		return 0, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return 0, err
	}
	listener, err := tls.Listen("tcp", address+":0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		return 0, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", p.logs)
	server := &http.Server{Handler: mux}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	go func() {
		if err := server.Serve(listener); err != nil && ctx.Err() == nil {
			klog.ErrorS(err, "the log server ended")
		}
	}()
	return int32(listener.Addr().(*net.TCPAddr).Port), nil
}

func (p *pods) logs(response http.ResponseWriter, request *http.Request) {
	name, container := request.PathValue("pod"), request.PathValue("container")
	w := p.find(request.PathValue("namespace"), name)
	if w == nil {
		http.Error(response, fmt.Sprintf("pod %q not found", name), http.StatusNotFound)
		return
	}
	query := request.URL.Query()
	for _, option := range []string{"timestamps", "previous", "sinceTime", "sinceSeconds"} {
		if value := query.Get(option); value != "" && value != "false" {
			http.Error(response, "the kubelet of the tests does not know the option "+option, http.StatusBadRequest)
			return
		}
	}
	file, err := os.Open(w.logPath(container))
	if err != nil {
		w.lock.Lock()
		state := w.states[container]
		w.lock.Unlock()
		reason := "no logs yet"
		if state.Waiting != nil {
			reason = state.Waiting.Reason
		}
		http.Error(response, fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, name, reason), http.StatusBadRequest)
		return
	}
	defer file.Close()
	if lines, err := strconv.Atoi(query.Get("tailLines")); err == nil {
		if err := seekToTail(file, lines); err != nil {
			http.Error(response, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	response.Header().Set("Content-Type", "text/plain")
	w.copyLog(request.Context(), response, file, query.Get("follow") == "true")
}

// copyLog sends the log and, if it is followed, what is appended until the container ends.
func (w *worker) copyLog(ctx context.Context, response http.ResponseWriter, file *os.File, follow bool) {
	for {
		w.lock.Lock()
		ended := w.ended
		w.lock.Unlock()
		if _, err := io.Copy(response, file); err != nil {
			return
		}
		if flusher, can := response.(http.Flusher); can {
			flusher.Flush()
		}
		if !follow || ended {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// seekToTail moves to the beginning of the file's last lines.
func seekToTail(file *os.File, lines int) error {
	text, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	start := len(text)
	for line := 0; line < lines && start > 0; line++ {
		start = bytes.LastIndexByte(text[:start-1], '\n') + 1
	}
	_, err = file.Seek(int64(start), io.SeekStart)
	return err
}
