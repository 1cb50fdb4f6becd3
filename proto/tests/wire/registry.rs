//! Every message as the Rust type that the programs use, by its full name.

use std::collections::BTreeMap;

use prost::{DecodeError, Message, Name};

/// Takes a message apart and puts it together again, both with the generated type.
pub(crate) type Reencode = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

macro_rules! registry {
    ($($($module:ident)::+ => $($($name:ident)::+),+;)+) => {{
        let mut all = BTreeMap::new();
        $({
            use proto::$($module)::+ as here;
            $(add::<here::$($name)::+>(&mut all);)+
        })+
        all
    }};
}

fn add<M: Message + Name + Default>(all: &mut BTreeMap<String, Reencode>) {
    let reencode: Reencode = |bytes| M::decode(bytes).map(|message| message.encode_to_vec());
    assert!(all.insert(M::full_name(), reencode).is_none(), "{} is listed twice", M::full_name());
}

/// The whole list. That it is whole is checked against the `.proto` files.
pub(crate) fn all() -> BTreeMap<String, Reencode> {
    registry! {
        containerd::events =>
            container_create::Runtime, ContainerCreate, ContainerUpdate, ContainerDelete, ContentCreate, ContentDelete,
            NamespaceCreate, NamespaceUpdate, NamespaceDelete, SandboxCreate, SandboxStart, SandboxExit,
            SnapshotPrepare, SnapshotCommit, SnapshotRemove, TaskCreate, TaskStart, TaskDelete, TaskIo, TaskExit,
            TaskOom, TaskExecAdded, TaskExecStarted, TaskPaused, TaskResumed, TaskCheckpointed;
        containerd::runc::v1 =>
            Options, CheckpointOptions, ProcessDetails;
        containerd::runtime::bootstrap::v1 =>
            BootstrapParams, Extension, BootstrapResult;
        containerd::runtime::sandbox::v1 =>
            CreateSandboxRequest, CreateSandboxResponse, StartSandboxRequest, StartSandboxResponse, PlatformRequest,
            PlatformResponse, StopSandboxRequest, StopSandboxResponse, UpdateSandboxRequest, UpdateSandboxResponse,
            WaitSandboxRequest, WaitSandboxResponse, SandboxStatusRequest, SandboxStatusResponse, PingRequest,
            PingResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, SandboxMetricsRequest,
            SandboxMetricsResponse;
        containerd::services::containers::v1 =>
            container::Runtime, Container, GetContainerRequest, GetContainerResponse, ListContainersRequest,
            ListContainersResponse, CreateContainerRequest, CreateContainerResponse, UpdateContainerRequest,
            UpdateContainerResponse, DeleteContainerRequest, ListContainerMessage;
        containerd::services::content::v1 =>
            Info, InfoRequest, InfoResponse, UpdateRequest, UpdateResponse, ListContentRequest, ListContentResponse,
            DeleteContentRequest, ReadContentRequest, ReadContentResponse, Status, StatusRequest, StatusResponse,
            ListStatusesRequest, ListStatusesResponse, WriteContentRequest, WriteContentResponse, AbortRequest;
        containerd::services::diff::v1 =>
            ApplyRequest, ApplyResponse, DiffRequest, DiffResponse;
        containerd::services::events::ttrpc::v1 =>
            ForwardRequest;
        containerd::services::events::v1 =>
            PublishRequest, ForwardRequest, SubscribeRequest;
        containerd::services::images::v1 =>
            ImageCreate, ImageUpdate, ImageDelete, Image, GetImageRequest, GetImageResponse, CreateImageRequest,
            CreateImageResponse, UpdateImageRequest, UpdateImageResponse, ListImagesRequest, ListImagesResponse,
            DeleteImageRequest;
        containerd::services::introspection::v1 =>
            Plugin, PluginsRequest, PluginsResponse, ServerResponse, DeprecationWarning, PluginInfoRequest,
            PluginInfoResponse;
        containerd::services::leases::v1 =>
            Lease, CreateRequest, CreateResponse, DeleteRequest, ListRequest, ListResponse, Resource,
            AddResourceRequest, DeleteResourceRequest, ListResourcesRequest, ListResourcesResponse;
        containerd::services::mounts::v1 =>
            ActivateRequest, ActivateResponse, DeactivateRequest, InfoRequest, InfoResponse, UpdateRequest,
            UpdateResponse, ListRequest, ListMessage;
        containerd::services::namespaces::v1 =>
            Namespace, GetNamespaceRequest, GetNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse,
            CreateNamespaceRequest, CreateNamespaceResponse, UpdateNamespaceRequest, UpdateNamespaceResponse,
            DeleteNamespaceRequest;
        containerd::services::sandbox::v1 =>
            StoreCreateRequest, StoreCreateResponse, StoreUpdateRequest, StoreUpdateResponse, StoreDeleteRequest,
            StoreDeleteResponse, StoreListRequest, StoreListResponse, StoreGetRequest, StoreGetResponse,
            ControllerCreateRequest, ControllerCreateResponse, ControllerStartRequest, ControllerStartResponse,
            ControllerPlatformRequest, ControllerPlatformResponse, ControllerStopRequest, ControllerStopResponse,
            ControllerWaitRequest, ControllerWaitResponse, ControllerStatusRequest, ControllerStatusResponse,
            ControllerShutdownRequest, ControllerShutdownResponse, ControllerMetricsRequest, ControllerMetricsResponse,
            ControllerUpdateRequest, ControllerUpdateResponse;
        containerd::services::snapshots::v1 =>
            PrepareSnapshotRequest, PrepareSnapshotResponse, ViewSnapshotRequest, ViewSnapshotResponse, MountsRequest,
            MountsResponse, RemoveSnapshotRequest, CommitSnapshotRequest, StatSnapshotRequest, Info,
            StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, ListSnapshotsRequest,
            ListSnapshotsResponse, UsageRequest, UsageResponse, CleanupRequest;
        containerd::services::streaming::v1 =>
            StreamInit;
        containerd::services::tasks::v1 =>
            CreateTaskRequest, CreateTaskResponse, StartRequest, StartResponse, DeleteTaskRequest, DeleteResponse,
            DeleteProcessRequest, GetRequest, GetResponse, ListTasksRequest, ListTasksResponse, KillRequest,
            ExecProcessRequest, ExecProcessResponse, ResizePtyRequest, CloseIoRequest, PauseTaskRequest,
            ResumeTaskRequest, ListPidsRequest, ListPidsResponse, CheckpointTaskRequest, CheckpointTaskResponse,
            UpdateTaskRequest, MetricsRequest, MetricsResponse, WaitRequest, WaitResponse;
        containerd::services::transfer::v1 =>
            TransferRequest, TransferOptions;
        containerd::services::version::v1 =>
            VersionResponse;
        containerd::task::v3 =>
            CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest,
            ExecProcessResponse, ResizePtyRequest, StateRequest, StateResponse, KillRequest, CloseIoRequest,
            PidsRequest, PidsResponse, CheckpointTaskRequest, UpdateTaskRequest, StartRequest, StartResponse,
            WaitRequest, WaitResponse, StatsRequest, StatsResponse, ConnectRequest, ConnectResponse, ShutdownRequest,
            PauseRequest, ResumeRequest;
        containerd::types =>
            Mount, ActiveMount, ActivationInfo, Metric, Platform, Descriptor, Envelope, sandbox::Runtime, Sandbox,
            RuntimeRequest, RuntimeVersion, RuntimeInfo;
        containerd::types::transfer =>
            ImageStore, UnpackConfiguration, ImageReference, ImageImportStream, ImageExportStream, Progress,
            OciRegistry, RegistryResolver, AuthRequest, AuthResponse, Data, WindowUpdate, ReadStream, WriteStream,
            ContainerPath;
        containerd::v1::types =>
            Process, ProcessInfo;
        gantry::shim::v1 =>
            ReopenRequest, ReopenResponse, AttachRequest, AttachInput, AttachOutput;
        gantry::v1 =>
            SubscribeRequest, SubscribeResponse, Gap, StateRequest, StateResponse, ExamineRequest, ExamineResponse,
            Account, Resource, Finding, Summary, ListOperationsRequest, ListOperationsResponse, CancelOperationRequest,
            CancelOperationResponse, Operation, Part;
        google::rpc =>
            Status;
        grpc::health::v1 =>
            HealthCheckRequest, HealthCheckResponse;
        cgroups::v1 =>
            Metrics, HugetlbStat, PidsStat, CpuStat, CpuUsage, Throttle, MemoryStat, MemoryEntry, MemoryOomControl,
            BlkIoStat, BlkIoEntry, RdmaStat, RdmaEntry, NetworkStat, CgroupStats;
        cgroups::v2 =>
            Metrics, PsiData, PsiStats, PidsStat, CpuStat, MemoryStat, MemoryEvents, RdmaStat, RdmaEntry, IoStat,
            IoEntry, HugeTlbStat, NetworkStat;
        cri =>
            VersionRequest, VersionResponse, DnsConfig, PortMapping, Mount, IdMapping, UserNamespace, NamespaceOption,
            Int64Value, LinuxSandboxSecurityContext, SecurityProfile, LinuxPodSandboxConfig, PodSandboxMetadata,
            PodSandboxConfig, RunPodSandboxRequest, RunPodSandboxResponse, StopPodSandboxRequest,
            StopPodSandboxResponse, RemovePodSandboxRequest, RemovePodSandboxResponse, PodSandboxStatusRequest, PodIp,
            PodSandboxNetworkStatus, Namespace, LinuxPodSandboxStatus, PodSandboxStatus, PodSandboxStatusResponse,
            PodSandboxStateValue, PodSandboxFilter, ListPodSandboxRequest, PodSandbox, ListPodSandboxResponse,
            PodSandboxStatsRequest, PodSandboxStatsResponse, PodSandboxStatsFilter, ListPodSandboxStatsRequest,
            ListPodSandboxStatsResponse, PodSandboxAttributes, PodSandboxStats, LinuxPodSandboxStats,
            WindowsPodSandboxStats, NetworkUsage, WindowsNetworkUsage, NetworkInterfaceUsage,
            WindowsNetworkInterfaceUsage, ProcessUsage, WindowsProcessUsage, ImageSpec, KeyValue,
            LinuxContainerResources, HugepageLimit, SeLinuxOption, Capability, LinuxContainerSecurityContext,
            LinuxContainerConfig, LinuxContainerUser, WindowsNamespaceOption, WindowsSandboxSecurityContext,
            WindowsPodSandboxConfig, WindowsContainerSecurityContext, WindowsContainerConfig, WindowsContainerResources,
            WindowsCpuGroupAffinity, ContainerMetadata, Device, CdiDevice, ContainerConfig, CreateContainerRequest,
            CreateContainerResponse, StartContainerRequest, StartContainerResponse, StopContainerRequest,
            StopContainerResponse, RemoveContainerRequest, RemoveContainerResponse, ContainerStateValue,
            ContainerFilter, ListContainersRequest, Container, ListContainersResponse, ContainerStatusRequest,
            ContainerStatus, ContainerStatusResponse, ContainerResources, ContainerUser,
            UpdateContainerResourcesRequest, UpdateContainerResourcesResponse, ExecSyncRequest, ExecSyncResponse,
            ExecRequest, ExecResponse, AttachRequest, AttachResponse, PortForwardRequest, PortForwardResponse,
            ImageFilter, ListImagesRequest, Image, ListImagesResponse, ImageStatusRequest, ImageStatusResponse,
            AuthConfig, PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse, NetworkConfig,
            RuntimeConfig, UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse, RuntimeCondition, RuntimeStatus,
            StatusRequest, RuntimeHandlerFeatures, RuntimeHandler, RuntimeFeatures, StatusResponse, ImageFsInfoRequest,
            UInt64Value, FilesystemIdentifier, FilesystemUsage, WindowsFilesystemUsage, ImageFsInfoResponse,
            ContainerStatsRequest, ContainerStatsResponse, ListContainerStatsRequest, ContainerStatsFilter,
            ListContainerStatsResponse, ContainerAttributes, ContainerStats, WindowsContainerStats, CpuUsage,
            WindowsCpuUsage, MemoryUsage, SwapUsage, WindowsMemoryUsage, ReopenContainerLogRequest,
            ReopenContainerLogResponse, CheckpointContainerRequest, CheckpointContainerResponse, GetEventsRequest,
            ContainerEventResponse, ListMetricDescriptorsRequest, ListMetricDescriptorsResponse, MetricDescriptor,
            ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, PodSandboxMetrics, ContainerMetrics, Metric,
            RuntimeConfigRequest, RuntimeConfigResponse, LinuxRuntimeConfiguration, UpdatePodSandboxResourcesRequest,
            UpdatePodSandboxResourcesResponse, IoUsage, PsiStats, PsiData, StreamPodSandboxesRequest,
            StreamPodSandboxesResponse, StreamContainersRequest, StreamContainersResponse, StreamContainerStatsRequest,
            StreamContainerStatsResponse, StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse,
            StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse, StreamImagesRequest, StreamImagesResponse;
        runtimeoptions::v1 =>
            Options;
        ttrpc =>
            Request, Response, KeyValue;
    }
}
