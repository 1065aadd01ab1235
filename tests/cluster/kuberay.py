"""RayCluster and RayJob as KubeRay 1.6.2 knows them: every field of the levels that cluster/ writes, with its type.

What is Kubernetes' own, pod templates above all, is checked by the models of its Python client.
"""

import re
from typing import Annotated, Any, Literal

from kubernetes import client
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError

Count = Annotated[int, Field(strict=True, ge=0)]
Texts = dict[StrictStr, StrictStr]
ManagedBy = Literal["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]
Policy = Literal["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class Autoscaler(Part):
    resources: client.V1ResourceRequirements | None = None
    image: StrictStr | None = None
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    securityContext: client.V1SecurityContext | None = None
    idleTimeoutSeconds: Count | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    version: Literal["v1", "v2"] | None = None
    env: list[client.V1EnvVar] | None = None
    envFrom: list[client.V1EnvFromSource] | None = None
    volumeMounts: list[client.V1VolumeMount] | None = None


class Group(Part):
    resources: Texts | None = None
    labels: Texts | None = None
    rayStartParams: Texts = {}
    template: client.V1PodTemplateSpec


class Head(Group):
    headService: client.V1Service | None = None
    enableIngress: StrictBool | None = None
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] | None = None


class Scale(Part):
    workersToDelete: list[StrictStr] | None = None


class Workers(Group):
    suspend: StrictBool | None = None
    groupName: StrictStr
    replicas: Count | None = None
    minReplicas: Count
    maxReplicas: Count
    idleTimeoutSeconds: Count | None = None
    scaleStrategy: Scale | None = None
    numOfHosts: Count | None = None


class Auth(Part):
    mode: Literal["disabled", "token"] | None = None
    enableK8sTokenAuth: StrictBool | None = None
    secretName: StrictStr | None = None


class RedisCredential(Part):
    valueFrom: client.V1EnvVarSource | None = None
    value: StrictStr | None = None


class FaultTolerance(Part):
    redisUsername: RedisCredential | None = None
    redisPassword: RedisCredential | None = None
    externalStorageNamespace: StrictStr | None = None
    redisAddress: StrictStr


class Upgrade(Part):
    type: Literal["Recreate", "None"] | None = None


class ClusterSpec(Part):
    upgradeStrategy: Upgrade | None = None
    authOptions: Auth | None = None
    suspend: StrictBool | None = None
    managedBy: ManagedBy | None = None
    autoscalerOptions: Autoscaler | None = None
    headServiceAnnotations: Texts | None = None
    enableInTreeAutoscaling: StrictBool | None = None
    gcsFaultToleranceOptions: FaultTolerance | None = None
    headGroupSpec: Head
    rayVersion: StrictStr | None = None
    workerGroupSpecs: list[Workers] | None = None


class Condition(Part):
    ttlSeconds: Count | None = None
    jobStatus: StrictStr | None = None
    jobDeploymentStatus: StrictStr | None = None


class Rule(Part):
    policy: Policy
    condition: Condition


class Legacy(Part):
    policy: Policy | None = None


class Deletion(Part):
    onSuccess: Legacy | None = None
    onFailure: Legacy | None = None
    deletionRules: list[Rule] | None = None


class Submitter(Part):
    backoffLimit: Count | None = None


class JobSpec(Part):
    activeDeadlineSeconds: Annotated[int, Field(strict=True, ge=1)] | None = None
    backoffLimit: Count | None = None
    rayClusterSpec: ClusterSpec | None = None
    submitterPodTemplate: client.V1PodTemplateSpec | None = None
    metadata: Texts | None = None
    clusterSelector: Texts | None = None
    submitterConfig: Submitter | None = None
    managedBy: ManagedBy | None = None
    deletionStrategy: Deletion | None = None
    entrypoint: StrictStr | None = None
    runtimeEnvYAML: StrictStr | None = None
    jobId: StrictStr | None = None
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] | None = None
    entrypointResources: StrictStr | None = None
    entrypointNumCpus: float | None = None
    entrypointNumGpus: float | None = None
    ttlSecondsAfterFinished: Count | None = None
    preRunningDeadlineSeconds: Annotated[int, Field(strict=True, ge=1)] | None = None
    shutdownAfterJobFinishes: StrictBool | None = None
    suspend: StrictBool | None = None


class RayCluster(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: client.V1ObjectMeta
    spec: ClusterSpec


class RayJob(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: client.V1ObjectMeta
    spec: JobSpec


KINDS: dict[str, type[BaseModel]] = {
    "RayCluster": RayCluster,
    "RayJob": RayJob,
    "ConfigMap": client.V1ConfigMap,
    "ServiceAccount": client.V1ServiceAccount,
    "PersistentVolumeClaim": client.V1PersistentVolumeClaim,
}


def faults(document: dict[str, Any]) -> list[str]:
    """Places where a document has a name or a value that its kind does not have; empty where all is well."""
    try:
        KINDS[document["kind"]].model_validate(document, extra="forbid")
    except ValidationError as error:
        return [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return _python_names(document)


def _python_names(value: Any) -> list[str]:
    """The client's models take size_limit for sizeLimit; Kubernetes does not."""
    if isinstance(value, list):
        return [name for item in value for name in _python_names(item)]
    if not isinstance(value, dict):
        return []
    own = [f"{name}: no field of Kubernetes" for name in value if re.fullmatch(r"[a-z]+(_[a-z]+)+", str(name))]
    return own + [name for item in value.values() for name in _python_names(item)]
