package kubelet

import (
	"context"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// sources reads Secrets and ConfigMaps from the API server. The real kubelet caches them with a watch. Errors have its
// words.
type sources struct {
	client    kubernetes.Interface
	namespace string
}

func (s sources) secret(ctx context.Context, name string) (*v1.Secret, error) {
	secret, err := s.client.CoreV1().Secrets(s.namespace).Get(ctx, name, metav1.GetOptions{})
	if errors.IsNotFound(err) {
		// The real kubelet says "secret" in the singular: secret "name" not found.
		err = errors.NewNotFound(schema.GroupResource{Resource: "secret"}, name)
	}
	return secret, err
}

func (s sources) configMap(ctx context.Context, name string) (*v1.ConfigMap, error) {
	configMap, err := s.client.CoreV1().ConfigMaps(s.namespace).Get(ctx, name, metav1.GetOptions{})
	if errors.IsNotFound(err) {
		err = errors.NewNotFound(schema.GroupResource{Resource: "configmap"}, name)
	}
	return configMap, err
}

// environment returns the variables of a container in the order of makeEnvironmentVariables in the real kubelet: those
// of the services, then envFrom, then env. An entry of env can refer to earlier variables.
func environment(ctx context.Context, from sources, pod *v1.Pod, container *v1.Container, services map[string]string) (map[string]string, error) {
	variables := map[string]string{}
	for name, value := range services {
		variables[name] = value
	}
	for _, source := range container.EnvFrom {
		values, err := environmentFrom(ctx, from, source)
		if err != nil {
			return nil, err
		}
		for name, value := range values {
			variables[source.Prefix+name] = value
		}
	}
	mapping := expansion.MappingFuncFor(variables)
	for _, variable := range container.Env {
		value, found := expansion.Expand(variable.Value, mapping), true
		if variable.Value == "" && variable.ValueFrom != nil {
			var err error
			if value, found, err = valueFrom(ctx, from, pod, container, variable.ValueFrom); err != nil {
				return nil, err
			}
		}
		if found {
			variables[variable.Name] = value
		}
	}
	return variables, nil
}

// environmentFrom returns all values of a Secret or a ConfigMap.
func environmentFrom(ctx context.Context, from sources, source v1.EnvFromSource) (map[string]string, error) {
	values := map[string]string{}
	switch {
	case source.ConfigMapRef != nil:
		configMap, err := from.configMap(ctx, source.ConfigMapRef.Name)
		if isAbsent(err, source.ConfigMapRef.Optional) {
			return values, nil
		} else if err != nil {
			return nil, err
		}
		for name, value := range configMap.Data {
			values[name] = value
		}
	case source.SecretRef != nil:
		secret, err := from.secret(ctx, source.SecretRef.Name)
		if isAbsent(err, source.SecretRef.Optional) {
			return values, nil
		} else if err != nil {
			return nil, err
		}
		for name, value := range secret.Data {
			values[name] = string(value)
		}
	}
	return values, nil
}

// valueFrom resolves one valueFrom. It returns false if the source is optional and does not exist.
func valueFrom(ctx context.Context, from sources, pod *v1.Pod, container *v1.Container, source *v1.EnvVarSource) (string, bool, error) {
	switch {
	case source.FieldRef != nil:
		value, err := fieldValue(pod, source.FieldRef.FieldPath)
		return value, true, err
	case source.ResourceFieldRef != nil:
		value, err := resource.ExtractContainerResourceValue(source.ResourceFieldRef, container)
		return value, true, err
	case source.ConfigMapKeyRef != nil:
		ref := source.ConfigMapKeyRef
		configMap, err := from.configMap(ctx, ref.Name)
		if isAbsent(err, ref.Optional) {
			return "", false, nil
		} else if err != nil {
			return "", false, err
		}
		value, found := configMap.Data[ref.Key]
		if !found && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return value, found, nil
	case source.SecretKeyRef != nil:
		ref := source.SecretKeyRef
		secret, err := from.secret(ctx, ref.Name)
		if isAbsent(err, ref.Optional) {
			return "", false, nil
		} else if err != nil {
			return "", false, err
		}
		value, found := secret.Data[ref.Key]
		if !found && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(value), found, nil
	}
	return "", false, fmt.Errorf("this kubelet does not know the source of a variable: %v", source)
}

// fieldValue returns a field of the pod. Fields that a pod gets only when it runs come from the kubelet.
func fieldValue(pod *v1.Pod, path string) (string, error) {
	switch path {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP", "status.podIP", "status.hostIPs", "status.podIPs":
		return address, nil
	}
	return fieldpath.ExtractFieldPathAsString(pod, path)
}

// serviceVariables returns the variables of the Service `kubernetes`, which every container has. Programs use them to
// detect that they run in a cluster.
func serviceVariables(host string) map[string]string {
	name, port, _ := strings.Cut(strings.TrimPrefix(host, "https://"), ":")
	return map[string]string{
		"KUBERNETES_SERVICE_HOST":       name,
		"KUBERNETES_SERVICE_PORT":       port,
		"KUBERNETES_SERVICE_PORT_HTTPS": port,
		"KUBERNETES_PORT":               "tcp://" + name + ":" + port,
	}
}

func isTrue(value *bool) bool {
	return value != nil && *value
}

func isAbsent(err error, optional *bool) bool {
	return errors.IsNotFound(err) && isTrue(optional)
}
