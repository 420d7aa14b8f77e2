package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// image is a pulled image: its file system, and its configuration as in a Dockerfile.
type image struct {
	rootFS     string
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	WorkingDir string
}

// findImage finds an image below the directory of images, which serves as the registry.
func findImage(directory, name string) (*image, error) {
	if !strings.Contains(filepath.Base(name), ":") {
		name += ":latest"
	}
	path := filepath.Join(directory, name)
	text, err := os.ReadFile(filepath.Join(path, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("failed to pull and unpack image %q: not found", name)
	} else if err != nil {
		return nil, err
	}
	found := &image{rootFS: filepath.Join(path, "rootfs")}
	if err := json.Unmarshal(text, found); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return found, nil
}

// ids returns the user and the group of the image, by number.
func (i *image) ids() (user, group int, err error) {
	if i.User == "" {
		return 0, 0, nil
	}
	userText, groupText, found := strings.Cut(i.User, ":")
	if user, err = strconv.Atoi(userText); err != nil {
		return 0, 0, fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root", i.User)
	}
	if found {
		group, err = strconv.Atoi(groupText)
	}
	return user, group, err
}
