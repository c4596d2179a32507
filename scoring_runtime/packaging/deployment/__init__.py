"""The files beside a package that deploy it: Container Instances, Kubernetes, IoT Edge."""
