package kubelet

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/secret"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// The real kubelet updates ConfigMaps, Secrets, and tokens whenever it syncs the pod, about once a minute.
const projectionInterval = 5 * time.Second

// payload is the content of a volume: file names with contents and modes.
type payload map[string]volumeutil.FileProjection

// volumes creates the volumes of one pod below a directory.
type volumes struct {
	sources
	pod       *v1.Pod
	directory string
}

func (v volumes) path(name string) string {
	return filepath.Join(v.directory, name)
}

// setUp creates all volumes and writes their files. Later calls update them: the files of a volume are replaced
// atomically, by its link `..data`.
func (v volumes) setUp(ctx context.Context) error {
	for _, volume := range v.pod.Spec.Volumes {
		if err := v.setUpOne(ctx, &volume); err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", volume.Name, err)
		}
	}
	return nil
}

func (v volumes) setUpOne(ctx context.Context, volume *v1.Volume) error {
	directory := v.path(volume.Name)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	if volume.EmptyDir != nil {
		// Mkdir applies the kubelet's umask; the volume must not have it.
		if err := os.Chmod(directory, 0o777); err != nil {
			return err
		}
		return v.own(directory, false)
	}
	content, err := v.content(ctx, volume)
	if err != nil {
		return err
	}
	writer, err := volumeutil.NewAtomicWriter(directory, "volume "+volume.Name)
	if err != nil {
		return err
	}
	return writer.Write(content, func(sub string) error { return v.own(filepath.Join(directory, sub), true) })
}

func (v volumes) content(ctx context.Context, volume *v1.Volume) (payload, error) {
	switch {
	case volume.ConfigMap != nil:
		source := volume.ConfigMap
		return v.fromConfigMap(ctx, source.Name, source.Items, source.DefaultMode, source.Optional)
	case volume.Secret != nil:
		source := volume.Secret
		return v.fromSecret(ctx, source.SecretName, source.Items, source.DefaultMode, source.Optional)
	case volume.DownwardAPI != nil:
		return v.fromPod(volume.DownwardAPI.Items, volume.DownwardAPI.DefaultMode)
	}
	all := payload{}
	for _, source := range volume.Projected.Sources {
		part, err := v.projected(ctx, &source, volume.Projected.DefaultMode)
		if err != nil {
			return nil, err
		}
		for name, file := range part {
			all[name] = file
		}
	}
	return all, nil
}

func (v volumes) projected(ctx context.Context, source *v1.VolumeProjection, mode *int32) (payload, error) {
	switch {
	case source.ConfigMap != nil:
		return v.fromConfigMap(ctx, source.ConfigMap.Name, source.ConfigMap.Items, mode, source.ConfigMap.Optional)
	case source.Secret != nil:
		return v.fromSecret(ctx, source.Secret.Name, source.Secret.Items, mode, source.Secret.Optional)
	case source.DownwardAPI != nil:
		return v.fromPod(source.DownwardAPI.Items, mode)
	case source.ServiceAccountToken != nil:
		return v.token(ctx, source.ServiceAccountToken)
	}
	return nil, fmt.Errorf("this kubelet does not know the source %v", source)
}

func (v volumes) fromConfigMap(ctx context.Context, name string, items []v1.KeyToPath, mode *int32, optional *bool) (payload, error) {
	found, err := v.configMap(ctx, name)
	if isAbsent(err, optional) {
		found = &v1.ConfigMap{}
	} else if err != nil {
		return nil, err
	}
	return configmap.MakePayload(items, found, mode, isTrue(optional))
}

func (v volumes) fromSecret(ctx context.Context, name string, items []v1.KeyToPath, mode *int32, optional *bool) (payload, error) {
	found, err := v.secret(ctx, name)
	if isAbsent(err, optional) {
		found = &v1.Secret{}
	} else if err != nil {
		return nil, err
	}
	return secret.MakePayload(items, found, mode, isTrue(optional))
}

func (v volumes) fromPod(items []v1.DownwardAPIVolumeFile, mode *int32) (payload, error) {
	files := payload{}
	for _, item := range items {
		var value string
		var err error
		if item.FieldRef != nil {
			value, err = fieldValue(v.pod, item.FieldRef.FieldPath)
		} else {
			value, err = resource.ExtractResourceValueByContainerName(item.ResourceFieldRef, v.pod, item.ResourceFieldRef.ContainerName)
		}
		if err != nil {
			return nil, err
		}
		of := mode
		if item.Mode != nil {
			of = item.Mode
		}
		files[item.Path] = volumeutil.FileProjection{Data: []byte(value), Mode: *of}
	}
	return files, nil
}

// token requests a token of the pod's service account. The real kubelet renews a token after 80 % of its lifetime.
// Here, each update writes a new one, which exposes programs that read it only once.
func (v volumes) token(ctx context.Context, source *v1.ServiceAccountTokenProjection) (payload, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: source.ExpirationSeconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: v.pod.Name, UID: v.pod.UID,
		},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	answer, err := v.client.CoreV1().ServiceAccounts(v.pod.Namespace).CreateToken(ctx, v.pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("failed to fetch token: %w", err)
	}
	mode := int32(0o600)
	if context := v.pod.Spec.SecurityContext; context != nil && context.FSGroup != nil {
		mode = 0o640
	}
	return payload{source.Path: {Data: []byte(answer.Status.Token), Mode: mode}}, nil
}

// own gives a volume to fsGroup: its files become readable for the group, and writable if the volume is writable. New
// files in its directories belong to the group.
func (v volumes) own(directory string, readOnly bool) error {
	context := v.pod.Spec.SecurityContext
	if context == nil || context.FSGroup == nil {
		return nil
	}
	return filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, int(*context.FSGroup)); err != nil {
			return err
		}
		if entry.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		information, err := entry.Info()
		if err != nil {
			return err
		}
		mode := information.Mode() | 0o440
		if !readOnly {
			mode |= 0o660
		}
		if entry.IsDir() {
			mode |= 0o110 | fs.ModeSetgid
		}
		return os.Chmod(path, mode)
	})
}

// overLimit returns the name of an emptyDir that exceeds its sizeLimit. The real kubelet checks every 10 s and evicts
// the pod.
func (v volumes) overLimit() string {
	for _, volume := range v.pod.Spec.Volumes {
		if volume.EmptyDir == nil || volume.EmptyDir.SizeLimit == nil || volume.EmptyDir.Medium == v1.StorageMediumMemory {
			continue
		}
		var used int64
		filepath.WalkDir(v.path(volume.Name), func(_ string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return nil
			}
			if information, err := entry.Info(); err == nil {
				used += information.Size()
			}
			return nil
		})
		if used > volume.EmptyDir.SizeLimit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", volume.Name, volume.EmptyDir.SizeLimit)
		}
	}
	return ""
}

// keepUpToDate updates the volumes until the pod ends. If a source was deleted, its files stay as they are.
func (v volumes) keepUpToDate(ctx context.Context) {
	ticker := time.NewTicker(projectionInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, volume := range v.pod.Spec.Volumes {
			if volume.EmptyDir != nil {
				continue
			}
			if err := v.setUpOne(ctx, &volume); err != nil && !errors.IsNotFound(err) && ctx.Err() == nil {
				logError(err, v.pod, "volume "+volume.Name)
			}
		}
	}
}
