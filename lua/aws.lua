--- What the AWS types share: whose a host is, what a sandbox's own signature says, and how a request is signed.
-- Policies see this module as `aws`. The names are facts about AWS's endpoints: its service models (endpointPrefix and
-- signingName), its endpoint documentation, and the Amazon S3 User Guide for S3's many forms.
local M = {}

local ACTION_MAX = 1 << 20     -- a body read for the action in it: IAM's and STS's have a few KiB
local ID_MAX = 64              -- of an access key's name, as req:sigv4 has it
local HOSTS_MAX = 256          -- hosts remembered; an agent may make up as many as it likes
local HEADS_MAX = 64           -- and signatures without their last field: one a client, day, region and service
local HEAD_LENGTH_MAX = 512    -- bytes of one that is remembered
local EXPIRES_MAX = 604800     -- s: a presigned URL lives seven days at most

-- ---- hosts ---------------------------------------------------------------------------------------

-- Amazon's domains. `home`: where the partition's global services are signed for.
local suffixes = {
  { ".amazonaws.com.cn", home = "cn-northwest-1" }, { ".api.amazonwebservices.com.cn", home = "cn-northwest-1" },
  { ".on.amazonwebservices.com.cn", home = "cn-northwest-1" },
  { ".amazonaws.com", home = "us-east-1" }, { ".api.aws", home = "us-east-1" }, { ".on.aws", home = "us-east-1" },
  { ".amazonaws.eu", home = "eusc-de-east-1" }, { ".api.amazonwebservices.eu", home = "eusc-de-east-1" },
  { ".on.amazonwebservices.eu", home = "eusc-de-east-1" },
  { ".c2s.ic.gov", home = "us-iso-east-1" }, { ".api.aws.ic.gov", home = "us-iso-east-1" },
  { ".sc2s.sgov.gov", home = "us-isob-east-1" }, { ".api.aws.scloud", home = "us-isob-east-1" },
  { ".csp.hci.ic.gov", home = "us-isof-south-1" }, { ".api.aws.hci.ic.gov", home = "us-isof-south-1" },
  { ".cloud.adc-e.uk", home = "eu-isoe-west-1" }, { ".api.cloud-aws.adc-e.uk", home = "eu-isoe-west-1" },
}

local direction = {}
for _, d in ipairs { "north", "south", "east", "west", "central", "northeast", "northwest", "southeast", "southwest" } do
  direction[d] = true
end

-- us-east-1, us-gov-west-1, eusc-de-east-1; not my-app-1.
local function is_region(label)
  local towards = label and label:match("^%l%l[%l-]*%-(%l+)%-%d+$")
  return towards ~= nil and direction[towards] ~= nil
end

-- What stands before the region in a host, and the name that is signed, where they differ. Longest match from the left.
local signing = {
  -- as the service models have it
  ["a2i-runtime.sagemaker"] = "sagemaker", ["api.detective"] = "detective", ["api.ecr"] = "ecr",
  ["api.ecr-public"] = "ecr-public", ["api.elastic-inference"] = "elastic-inference",
  ["api.fleethub.iot"] = "iotfleethub", ["api.iotdeviceadvisor"] = "iotdeviceadvisor",
  ["api.iotwireless"] = "iotwireless", ["api.mediatailor"] = "mediatailor", ["api.pricing"] = "pricing",
  ["api.sagemaker"] = "sagemaker", ["api.tunneling.iot"] = "IoTSecuredTunneling", appconfigdata = "appconfig",
  appstream2 = "appstream", backupstorage = "backup-storage", ["catalog.marketplace"] = "aws-marketplace",
  cloudhsmv2 = "cloudhsm", cloudsearchdomain = "cloudsearch", ["contact-lens"] = "connect",
  ["data-ats.iot"] = "iotdata", ["data.iotevents"] = "ioteventsdata", ["data.jobs.iot"] = "iot-jobs-data",
  ["data.mediastore"] = "mediastore", ["devices.iot1click"] = "iot1click", ["edge.sagemaker"] = "sagemaker",
  email = "ses", ["entitlement.marketplace"] = "aws-marketplace", ["featurestore-runtime.sagemaker"] = "sagemaker",
  forecastquery = "forecast", ["identity-chime"] = "chime", ["ingest.timestream"] = "timestream",
  ["media-pipelines-chime"] = "chime", ["meetings-chime"] = "chime", ["memory-db"] = "memorydb",
  ["messaging-chime"] = "chime", ["metering.marketplace"] = "aws-marketplace", ["migrationhub-config"] = "mgh",
  mobile = "AWSMobileHubService", ["models-v2-lex"] = "lex", ["models.lex"] = "lex", oidc = "sso-oauth",
  ["participant.connect"] = "execute-api", ["personalize-events"] = "personalize",
  ["personalize-runtime"] = "personalize", pinpoint = "mobiletargeting", ["portal.sso"] = "awsssoportal",
  ["projects.iot1click"] = "iot1click", ["query.timestream"] = "timestream", ["runtime-v2-lex"] = "lex",
  ["runtime.lex"] = "lex", ["runtime.sagemaker"] = "sagemaker", ["s3-control"] = "s3",
  ["servicecatalog-appregistry"] = "servicecatalog", ["session.qldb"] = "qldb", ["sms-voice.pinpoint"] = "sms-voice",
  ["streams.dynamodb"] = "dynamodb", ["voice-chime"] = "chime",
  -- younger services
  ["bedrock-runtime"] = "bedrock", ["bedrock-agent"] = "bedrock", ["bedrock-agent-runtime"] = "bedrock",
  ["bedrock-data-automation"] = "bedrock", ["bedrock-data-automation-runtime"] = "bedrock",
  ["bedrock-agentcore-control"] = "bedrock-agentcore", ["metrics.sagemaker"] = "sagemaker",
  ["workflows-omics"] = "omics", ["storage-omics"] = "omics", ["control-storage-omics"] = "omics",
  ["analytics-omics"] = "omics", ["tags-omics"] = "omics", ivsrealtime = "ivs", ["data.qapps"] = "qapps",
  ["mail-manager"] = "ses", ["runtime-medical-imaging"] = "medical-imaging",
  ["controlplane.payment-cryptography"] = "payment-cryptography",
  ["dataplane.payment-cryptography"] = "payment-cryptography", ["agreement-marketplace"] = "aws-marketplace",
  ["deployment-marketplace"] = "aws-marketplace", ["reporting-marketplace"] = "aws-marketplace",
  ["maps.geo"] = "geo", ["places.geo"] = "geo", ["routes.geo"] = "geo", ["tracking.geo"] = "geo",
  ["geofencing.geo"] = "geo", ["metadata.geo"] = "geo", ["dataplane.rum"] = "rum", ["dataplane.evidently"] = "evidently",
  ["greengrass-ats.iot"] = "greengrass", ["account-access-runtime"] = "account-access",
  ["agent-registry-control"] = "agent-registry", ["cloudwatch-omni"] = "cloudwatch", eventsv2 = "events", ["iam-toolbox"] = "iam",
  ["cassandra-streams"] = "cassandra", ["discovery-marketplace"] = "aws-marketplace", ["partnercentral-prm"] = "partnercentral",
  ["data-signer"] = "signer", ["api.iotmanagedintegrations"] = "iotmanagedintegrations", ["admin.wickr"] = "wickr",
  ["entitlement-marketplace"] = "aws-marketplace", ["metering-marketplace"] = "aws-marketplace", aos = "es",   -- dual stack
  ["streams-dynamodb"] = "dynamodb", efs = "elasticfilesystem", ["kafka-api"] = "kafka",
  ["catalog-marketplace"] = "aws-marketplace", ["arc-recovery-control-config"] = "route53-recovery-control-config",
  ["timestream-query"] = "timestream", ["timestream-ingest"] = "timestream",
  ["api.iot-tunneling"] = "IoTSecuredTunneling",
  -- endpoints of somebody's own
  ["lambda-url"] = "lambda", ["appsync-api"] = "appsync", ["appsync-realtime-api"] = "appsync",
  ["aps-workspaces"] = "aps", ddb = "dynamodb", ["data-kinesis"] = "kinesis", ["control-kinesis"] = "kinesis",
  -- older names
  ["s3-accesspoint"] = "s3", queue = "sqs", neptune = "neptune-db", transcribestreaming = "transcribe",
}

-- Endpoints behind which anybody's code answers, and sees what was signed: signed for that service and no other,
-- whatever the sandbox says, so that its owner cannot take the signature to IAM.
local owned = {
  ["execute-api"] = true, ["lambda-url"] = true, ["vpc-lattice-svcs"] = true, ["appsync-api"] = true,
  ["appsync-realtime-api"] = true,
}
-- Services that have their own hosts where sites of anybody's are, too.
local among_sites = { ["neptune-graph"] = true, osm = true }

-- Names that Amazon gives to machines, balancers and sites of anybody's: no service answers there. What else there is
-- in *.on.aws is somebody's own too.
local function is_strange(label, suffix)
  return label == "compute" or label:find("^compute%-%d+$") ~= nil or label == "elb"
    or label:find("^s3%-website") ~= nil or label:find("^vpce%-svc%-") ~= nil
    or suffix[1]:find("^%.on%.") ~= nil and not owned[label] and not among_sites[label]
end

-- Services that are signed for one region, whatever is asked of them, where that is not the partition's home.
local fixed = {
  ["amazonaws.com"] = { globalaccelerator = "us-west-2", networkmanager = "us-west-2" },
  ["amazonaws.com.cn"] = { iam = "cn-north-1", support = "cn-north-1" },
  ["api.amazonwebservices.com.cn"] = { iam = "cn-north-1" },
}
local global_names = {
  iam = "iam", sts = "sts", cloudfront = "cloudfront", route53 = "route53", organizations = "organizations",
  budgets = "budgets", ce = "ce", waf = "waf", shield = "shield", importexport = "IngestionService", sdb = "sdb",
  support = "support", ec2 = "ec2", queue = "sqs", health = "health", ["global.health"] = "health", account = "account",
  globalaccelerator = "globalaccelerator", networkmanager = "networkmanager", savingsplans = "savingsplans",
  route53domains = "route53domains", artifact = "artifact", s3 = "s3",
}

-- Hosts that take SigV4a alone: no region is their own.
local everywhere = {
  ["s3-global"] = "s3", ["cloudfront-kvs.global"] = "cloudfront-keyvaluestore", ["endpoint.events"] = "events",
  ["endpoints.email.global"] = "ses",
}

local function without_fips(label)
  return (label:gsub("%-fips$", ""):gsub("^fips%-", ""))
end

-- The labels before the region, FIPS forgotten: "api.ecr", "bucket.s3".
local function names_of(labels, n)
  local out = {}
  for i = 1, n do
    if labels[i] ~= "fips" then out[#out + 1] = without_fips(labels[i]) end
  end
  return out
end

-- The longest run of last labels that `names` knows; its value.
local function longest(names, labels)
  for i = 1, #labels do
    local name = table.concat(labels, ".", i)
    if names[name] then return names[name] end
  end
end

local function service_of(names)
  local known = longest(signing, names)
  if known then return known end
  local last = names[#names]
  if not last or last == "" then return nil end
  if last:find("^s3express%-") then return "s3express" end
  -- a device's or a customer's own data endpoint; the control plane has nothing before it
  if last == "iot" and #names > 1 then return "iotdata" end
  return last
end

-- s3.amazonaws.com in all its ages, and what else of S3 does not say its region in a label of its own.
local function s3_alone(names)
  local last = names[#names]
  if last == "s3-accelerate" then return { service = "s3" } end       -- only the bucket knows its region
  if last == "s3" then return { service = "s3", region = "us-east-1", loose = true } end
  if last == "s3-external-1" then return { service = "s3", region = "us-east-1" } end
  local region = last:match("^s3%-(.+)$")
  region = region and without_fips(region)
  if is_region(region) then return { service = "s3", region = region } end
end

local function alone(names, suffix)
  local s3 = s3_alone(names)
  if s3 then return s3 end
  local service = longest(everywhere, names)
  if service then return { service = service, everywhere = true } end
  -- iam.us-gov.amazonaws.com
  local home = suffix.home
  local gov = #names > 1 and names[#names] == "us-gov"
  if gov then
    names[#names] = nil
    home = "us-gov-west-1"
  end
  -- route53.global.api.aws; what is called so in this partition is global, whatever its name
  local global = #names > 1 and names[#names] == "global"
  if global then names[#names] = nil end
  local name = table.concat(names, ".")
  if (global or gov) and not global_names[name] then return { service = service_of(names), region = home } end
  if global_names[name] then
    local rules = fixed[suffix[1]:sub(2)]
    return { service = global_names[name], region = rules and rules[name] or home }
  end
  -- my-domain.us-east-1.es.amazonaws.com
  if is_region(names[#names - 1]) then
    return { service = service_of { names[#names] }, region = names[#names - 1], owned = true }
  end
  return {}
end

local function suffix_of(host)
  for _, s in ipairs(suffixes) do
    if #host > #s[1] and host:sub(-#s[1]) == s[1] then return s end
  end
end

local function read_host(host)
  local suffix = suffix_of(host)
  if not suffix then return false end
  local labels = {}
  for label in host:sub(1, -#suffix[1] - 1):gmatch("[^.]+") do labels[#labels + 1] = label end
  local n, region = #labels, nil
  if labels[n] == "vpce" then n = n - 1 end            -- an interface endpoint: the service's own host before it
  if labels[n] == "us-gov" and is_region(labels[n - 1]) then n = n - 1 end   -- routes.geo.us-gov-west-1.us-gov
  if is_region(labels[n]) then
    region = labels[n]
    n = n - 1
  end
  if labels[n] == "dualstack" then n = n - 1 end
  local names = names_of(labels, n)
  if #names == 0 then return {} end
  local last = names[#names]
  -- rds.eu-west-1 is the service, x.eu-west-1.rds somebody's database
  if is_strange(last, suffix) or last == "rds" and not region then return { strange = true } end
  if not region then return alone(names, suffix) end
  return { service = service_of(names), region = region, owned = owned[last] }
end

local hosts, host_count = {}, 0

--- What an Amazon host says of itself: { service, region, loose = the region is only a default, everywhere = SigV4a
-- alone, owned = signed for that service alone, strange = no service's at all }, members absent where it does not say.
-- nil: not Amazon's.
function M.host(host)
  local known = hosts[host]
  if known == nil then
    if host_count >= HOSTS_MAX then hosts, host_count = {}, 0 end
    known = read_host(host)
    hosts[host], host_count = known, host_count + 1
  end
  return known or nil
end

-- ---- the sandbox's own signature -----------------------------------------------------------------

local algorithms = { ["AWS4-HMAC-SHA256"] = false, ["AWS4-ECDSA-P256-SHA256"] = true }

local function read_credential(text, asymmetric)
  if asymmetric then
    local key, service = text:match("^([^/]+)/%d%d%d%d%d%d%d%d/([%w._~-]+)/aws4_request$")
    return key and { key = key, service = service, asymmetric = true }
  end
  local key, region, service = text:match("^([^/]+)/%d%d%d%d%d%d%d%d/([%w._~-]+)/([%w._~-]+)/aws4_request$")
  return key and { key = key, region = region, service = service }
end

local function read_authorization(text, region_set)
  local algorithm, rest = text:match("^%s*(AWS4%-[%w-]+)%s+(.*)$")
  if algorithms[algorithm] == nil then return nil end
  local sig = read_credential(rest:match("Credential=([^,%s]+)") or "", algorithms[algorithm])
  if not sig then return nil end
  sig.signed, sig.region_set = rest:match("SignedHeaders=([%w;_.-]+)"), region_set
  return sig
end

local heads, head_count = {}, 0

-- What stands before a signature is the same in many requests. It is read alone if nothing behind it could be read as
-- a part of it: with both names in it, and ended by a space or a comma.
local function header_signature(text, region_set)
  local at = text:find("Signature=", 1, true)
  if not at or at > HEAD_LENGTH_MAX or region_set then return read_authorization(text, region_set) end
  local head = text:sub(1, at - 1)
  local known = heads[head]
  if known then return known end
  local last = head:sub(-1)
  known = (last == " " or last == ",") and read_authorization(head) or nil
  if not known or not known.signed then return read_authorization(text) end
  if head_count >= HEADS_MAX then heads, head_count = {}, 0 end
  heads[head], head_count = known, head_count + 1
  return known
end

--- { key, region, service, asymmetric, signed = names, region_set, query = bool, expires } of what strip took from the
-- request; nil where there was no signature of version 4. To be read only: it may serve another request too.
function M.signature(stripped)
  local headers, query = stripped.headers, stripped.query
  local names = {}
  for name, v in pairs(query) do names[name:lower()] = v end
  if names["x-amz-credential"] then
    local sig = read_credential(names["x-amz-credential"], algorithms[names["x-amz-algorithm"]])
    if not sig then return nil end
    sig.query, sig.signed, sig.expires = true, names["x-amz-signedheaders"], names["x-amz-expires"]
    sig.region_set = names["x-amz-region-set"]
    return sig
  end
  if not headers.authorization then return nil end
  return header_signature(headers.authorization, headers["x-amz-region-set"])
end

-- ---- where and for what a request is signed ------------------------------------------------------

local function lacking(host, region, service)
  local missing = {}
  if not region then missing[#missing + 1] = "region=…" end
  if not service then missing[#missing + 1] = "service=…" end
  return table.concat(missing, " and "), host
end

--- region, service, region_set (then SigV4a) | nil, why.
-- Fields first; then the sandbox's own scope, if its region is the host's or the host has none of its own, and the host
-- is not a stranger's; then the host.
function M.scope(host, cred, sig)
  local at = M.host(host)
  local region, service = cred.region, cred.service
  if not at or at.strange then
    if region and service then return region, service end
    return nil, ("%s is %s: the credential needs %s"):format(host,
      at and "a name that Amazon gives to anybody's machine or site" or "not one of Amazon's hosts", (lacking(host, region, service)))
  end
  if sig and not at.owned and (sig.asymmetric or not at.region or at.loose or sig.region == at.region) then
    service = service or sig.service
    region = region or sig.region
  end
  region, service = region or at.region, service or at.service
  if service and (at.everywhere or sig and sig.asymmetric) then
    local set = sig and sig.region_set
    if not set or not set:find("^[%w*,-]+$") then set = at.everywhere and "*" or cred.region or at.region or "*" end
    return "", service, set
  end
  if region and service then return region, service end
  return nil, ("%s does not say what to sign for: the credential needs %s"):format(host, (lacking(host, region, service)))
end

-- ---- payloads ------------------------------------------------------------------------------------

-- S3 and its kin: the path as it is, and the payload's hash in a header.
local s3_like = { s3 = true, ["s3-outposts"] = true, ["s3-object-lambda"] = true, s3express = true }

local words = {
  ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"] = true,  -- of nothing: every GET has it
  ["UNSIGNED-PAYLOAD"] = true, ["STREAMING-UNSIGNED-PAYLOAD-TRAILER"] = true,
  ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD"] = "chunks", ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"] = "chunks",
}

-- What the client says of its payload: word | nil | false, why
local function payload_of(req, sig, chunks)
  local word = req.headers:get("x-amz-content-sha256")
  if not word then
    return sig and sig.query and (req.query:get("X-Amz-Content-Sha256") or req.query:get("x-amz-content-sha256")) or nil
  end
  if words[word] == true or #word == 64 and word:find("^%x+$") then return word end
  if words[word] == "chunks" and chunks then return word end
  return false, ("x-amz-content-sha256: %s cannot be signed again"):format(word:sub(1, 64):gsub("[^%w-]", "?"))
end

-- ---- calls that make credentials -----------------------------------------------------------------

local KEYS, TOKEN, CODE = "keys", "a token", "a sign-in"

-- By service and action: the action stands in X-Amz-Target, in the query, or in a form.
local minting = {
  iam = { CreateAccessKey = KEYS, CreateServiceSpecificCredential = KEYS, ResetServiceSpecificCredential = KEYS,
    CreateLoginProfile = CODE, UpdateLoginProfile = CODE, CreateVirtualMFADevice = CODE, UploadSSHPublicKey = KEYS,
    UploadSigningCertificate = KEYS },
  sts = { AssumeRole = KEYS, AssumeRoleWithSAML = KEYS, AssumeRoleWithWebIdentity = KEYS, AssumeRoot = KEYS,
    GetSessionToken = KEYS, GetFederationToken = KEYS, GetDelegatedAccessToken = KEYS, GetScopedCredentials = KEYS,
    GetWebIdentityToken = TOKEN },
  ecr = { GetAuthorizationToken = TOKEN }, ["ecr-public"] = { GetAuthorizationToken = TOKEN },
  ["cognito-identity"] = { GetCredentialsForIdentity = KEYS, GetOpenIdToken = TOKEN,
    GetOpenIdTokenForDeveloperIdentity = TOKEN },
  ["cognito-idp"] = { InitiateAuth = TOKEN, AdminInitiateAuth = TOKEN, RespondToAuthChallenge = TOKEN,
    AdminRespondToAuthChallenge = TOKEN, AdminSetUserPassword = CODE, GetTokensFromRefreshToken = TOKEN, GetClientToken = TOKEN,
    GetDerivedToken = TOKEN, AssociateSoftwareToken = CODE, ListUserPoolClientSecrets = KEYS,
    CreateUserPoolClient = KEYS, AddUserPoolClientSecret = KEYS, UpdateUserPoolClient = KEYS, DescribeUserPoolClient = KEYS },
  redshift = { GetClusterCredentials = KEYS, GetClusterCredentialsWithIAM = KEYS, GetIdentityCenterAuthToken = TOKEN },
  ["redshift-serverless"] = { GetCredentials = KEYS, GetIdentityCenterAuthToken = TOKEN },
  ssm = { CreateActivation = CODE, StartSession = TOKEN, GetAccessToken = TOKEN, ResumeSession = TOKEN },
  ec2 = { CreateKeyPair = KEYS, GetPasswordData = CODE, ExportVerifiedAccessInstanceClientConfiguration = KEYS },
  ["ec2-instance-connect"] = { SendSSHPublicKey = KEYS, SendSerialConsoleSSHPublicKey = KEYS },
  acm = { ExportCertificate = KEYS, GetAcmeExternalAccountBindingCredentials = KEYS }, wafv2 = { CreateAPIKey = KEYS },
  workmail = { AssumeImpersonationRole = TOKEN, ResetPassword = CODE }, ds = { ResetUserPassword = CODE },
  cloudwatch = { GetSpaceCredentialsForOrganization = KEYS, GetSpaceDataAccess = KEYS, CreateOneTimeDeepLinkCode = CODE },
  codebuild = { StartSandboxConnection = TOKEN, CreateWebhook = KEYS, UpdateWebhook = KEYS },
  ecs = { ExecuteCommand = TOKEN }, glue = { GetSessionEndpoint = TOKEN, GetDashboardUrl = CODE },
  kinesisanalytics = { CreateApplicationPresignedUrl = CODE }, ["airflow-serverless"] = { CreateAirflowUiUrl = CODE },
  ["aws-marketplace"] = { GetAgreementEntitlements = TOKEN }, devicefarm = { CreateTestGridUrl = CODE },
  opsworks = { GrantAccess = KEYS },
  evs = { GetDepotUrl = TOKEN }, pcs = { RegisterComputeNodeGroupInstance = KEYS }, snowball = { GetJobUnlockCode = CODE },
  route53domains = { RetrieveDomainAuthCode = CODE, TransferDomainToAnotherAwsAccount = CODE },
  codepipeline = { PollForJobs = KEYS, GetJobDetails = KEYS, GetThirdPartyJobDetails = KEYS },
  lightsail = { CreateKeyPair = KEYS, DownloadDefaultKeyPair = KEYS, GetInstanceAccessDetails = KEYS,
    CreateBucketAccessKey = KEYS, CreateContainerServiceRegistryLogin = TOKEN,
    GetRelationalDatabaseMasterUserPassword = CODE },
  gamelift = { RequestUploadCredentials = KEYS, GetInstanceAccess = KEYS, GetComputeAuthToken = TOKEN,
    GetComputeAccess = KEYS, CreateBuild = KEYS, GetPlayerConnectionDetails = TOKEN },
  elasticmapreduce = { GetClusterSessionCredentials = KEYS, GetSessionEndpoint = TOKEN, GetOnClusterAppUIPresignedURL = CODE,
    GetPersistentAppUIPresignedURL = CODE },
  ["license-manager"] = { CreateToken = TOKEN, GetAccessToken = TOKEN },
  IoTSecuredTunneling = { OpenTunnel = TOKEN, RotateTunnelAccessToken = TOKEN },
  sagemaker = { CreatePresignedDomainUrl = CODE, CreatePresignedMlflowAppUrl = CODE, CreatePartnerAppPresignedUrl = CODE,
    CreatePresignedNotebookInstanceUrl = CODE, CreatePresignedMlflowTrackingServerUrl = CODE, StartSession = TOKEN },
  athena = { CreatePresignedNotebookUrl = CODE, GetSessionEndpoint = TOKEN },
  appstream = { CreateStreamingURL = CODE, CreateImageBuilderStreamingURL = CODE, CreateAppBlockBuilderStreamingURL = CODE },
}

-- By service, method and path, for services that have no actions. "*": one segment. The fourth: parameters, of
-- which one is in the query (in small letters).
local minting_paths = {
  s3 = { { "GET", "/v20180820/accessgrantsinstance/dataaccess", KEYS } },
  rolesanywhere = { { "POST", "/sessions", KEYS } },
  codeartifact = { { "POST", "/v1/authorization-token", TOKEN } },
  iot = { { "POST", "/keys-and-certificate", KEYS }, { "POST", "/certificates", KEYS },
    { "POST", "/provisioning-templates/*/provisioning-claim", KEYS } },
  apigateway = { { "POST", "/apikeys", KEYS }, { "GET", "/apikeys", KEYS, { "includevalues", "includevalue" } },
    { "GET", "/apikeys/*", KEYS, { "includevalue", "includevalues" } }, { "POST", "/usageplans/*/keys", KEYS },
    { "GET", "/usageplans/*/keys", KEYS }, { "GET", "/usageplans/*/keys/*", KEYS } },
  appsync = { { "POST", "/v1/apis/*/apikeys", KEYS }, { "GET", "/v1/apis/*/apikeys", KEYS }, { "POST", "/v1/apis/*/apikeys/*", KEYS } },
  awsssoportal = { { "GET", "/federation/credentials", KEYS } },
  ["sso-oauth"] = { { "POST", "/token", TOKEN }, { "POST", "/client/register", KEYS } },
  signin = { { "POST", "/v1/token", KEYS } }, ["account-access"] = { { "GET", "/access/credentials", KEYS } },
  ["eks-auth"] = { { "POST", "/clusters/*/assume-role-for-pod-identity", KEYS } }, eks = { { "POST", "/cluster-registrations", CODE } },
  ["emr-serverless"] = { { "GET", "/applications/*/sessions/*/endpoint", TOKEN }, { "GET", "/applications/*/jobruns/*/dashboard", CODE } },
  airflow = { { "POST", "/clitoken/*", TOKEN }, { "POST", "/webtoken/*", TOKEN } },
  grafana = { { "POST", "/workspaces/*/apikeys", KEYS }, { "POST", "/workspaces/*/serviceaccounts/*/tokens", KEYS } },
  connect = { { "GET", "/user/federate/*", CODE }, { "POST", "/auth/code/*", CODE }, { "POST", "/contact/create-participant", TOKEN },
    { "PUT", "/contact/chat", TOKEN }, { "PUT", "/contact/assistant", TOKEN }, { "PUT", "/contact/webrtc", TOKEN } },
  datazone = { { "GET", "/v2/domains/*/environments/*/credentials", KEYS },
    { "GET", "/v2/domains/*/connections/*", KEYS, { "withsecret" } }, { "POST", "/v2/domains/*/get-portal-login-url", CODE } },
  chime = { { "GET", "/meetings/*/attendees", TOKEN }, { "POST", "/meetings/*/attendees", TOKEN }, { "GET", "/meetings/*/attendees/*", TOKEN },
    { "PUT", "/meetings/*/attendees/*/capabilities", TOKEN }, { "POST", "/meetings", TOKEN, { "operation" } },
    { "GET", "/accounts/*/bots", TOKEN }, { "POST", "/accounts/*/bots", TOKEN }, { "GET", "/accounts/*/bots/*", TOKEN },
    { "POST", "/accounts/*/bots/*", TOKEN } },
  kinesisvideo = { { "POST", "/v1/get-ice-server-config", TOKEN } },
  codecatalyst = { { "PUT", "/v1/accessTokens", KEYS }, { "PUT", "/v1/spaces/*/projects/*/devEnvironments/*/session", TOKEN } },
  lambda = { { "POST", "/2025-09-09/microvms/*/auth-token", TOKEN }, { "POST", "/2025-09-09/microvms/*/shell-auth-token", TOKEN } },
  bedrock = { { "POST", "/trusted-access-programs/*/account-application", TOKEN },
    { "POST", "/trusted-access-programs/*/organization-application", TOKEN },
    { "POST", "/trusted-access-programs/*/project-application/*", TOKEN } },
  iotmanagedintegrations = { { "POST", "/provisioning-profiles", KEYS } },
  ["pca-connector-scep"] = { { "POST", "/challenges", CODE }, { "GET", "/challengePasswords/*", CODE } },
  mediapackage = { { "POST", "/channels", KEYS }, { "PUT", "/channels/*/credentials", KEYS },
    { "PUT", "/channels/*/ingest_endpoints/*/credentials", KEYS } },
  gameliftstreams = { { "POST", "/streamgroups/*/streamsessions/*/access", TOKEN }, { "POST", "/streamgroups/*/streamurls", CODE },
    { "GET", "/streamgroups/*/streamurls", CODE }, { "GET", "/streamurls", CODE },
    { "GET", "/streamgroups/*/streamurls/*", CODE } },
  ["aws-marketplace"] = { { "POST", "/getBuyerDashboard", CODE } }, m2 = { { "GET", "/signed-bi-url", CODE } },
  aidevops = { { "POST", "/v1/agentspaces/*/associations", KEYS }, { "PATCH", "/v1/agentspaces/*/associations/*", KEYS } },
  securityagent = { { "POST", "/UpdateIntegration", KEYS } }, wickr = { { "GET", "/networks/*/oidc", TOKEN } },
  thinclient = { { "GET", "/environments", CODE }, { "POST", "/environments", CODE }, { "GET", "/environments/*", CODE },
    { "PATCH", "/environments/*", CODE } },
  amplifybackend = { { "POST", "/backend/*/challenge", CODE }, { "GET", "/backend/*/challenge/*", CODE } },
  managedblockchain = { { "POST", "/accessors", TOKEN }, { "GET", "/accessors/*", TOKEN } },
  finspace = { { "GET", "/kx/environments/*/connectionString", CODE } },
  qbusiness = { { "POST", "/applications/*/experiences/*/anonymous-url", CODE } },
  route53globalresolver = { { "POST", "/tokens/*", TOKEN }, { "GET", "/tokens/*", TOKEN } },
  lakeformation = { { "POST", "/GetTemporaryGlueTableCredentials", KEYS }, { "POST", "/GetTemporaryGlueFunctionCredentials", KEYS },
    { "POST", "/GetTemporaryGluePartitionCredentials", KEYS }, { "POST", "/GetTemporaryDataLocationCredentials", KEYS },
    { "POST", "/AssumeDecoratedRoleWithSAML", KEYS } },
  ["bedrock-agentcore"] = { { "POST", "/identities/oauth2/token", TOKEN }, { "POST", "/identities/api-key", KEYS },
    { "POST", "/identities/payment/token", TOKEN }, { "POST", "/payments/processPayment", TOKEN },
    { "POST", "/identities/GetWorkloadAccessToken", TOKEN }, { "POST", "/identities/GetWorkloadAccessTokenForJWT", TOKEN },
    { "POST", "/identities/GetWorkloadAccessTokenForUserId", TOKEN } },
  ["finspace-api"] = { { "GET", "/credentials/programmatic", KEYS }, { "POST", "/user/*/password", CODE },
    { "POST", "/datasets/*/dataviewsv2/*/external-access-details", KEYS } },
  quicksight = { { "POST", "/accounts/*/embed-url/*", CODE }, { "POST", "/accounts/*/identity-context", TOKEN }, { "GET", "/accounts/*/dashboards/*/embed-url", CODE },
    { "GET", "/accounts/*/session-embed-url", CODE } },
  deadline = { { "GET", "/2023-10-12/farms/*/fleets/*/read-roles", KEYS }, { "GET", "/2023-10-12/farms/*/queues/*/read-roles", KEYS },
    { "GET", "/2023-10-12/farms/*/queues/*/user-roles", KEYS }, { "GET", "/2023-10-12/farms/*/fleets/*/workers/*/fleet-roles", KEYS },
    { "GET", "/2023-10-12/farms/*/fleets/*/workers/*/queue-roles", KEYS } },
  amplifyuibuilder = { { "POST", "/tokens/*", TOKEN }, { "POST", "/tokens/*/refresh", TOKEN } },
  ivschat = { { "POST", "/CreateChatToken", TOKEN } }, ivs = { { "POST", "/CreateParticipantToken", TOKEN },
    { "POST", "/CreateStage", TOKEN }, { "POST", "/CreateChannel", KEYS }, { "POST", "/CreateStreamKey", KEYS },
    { "POST", "/GetStreamKey", KEYS }, { "POST", "/BatchGetStreamKey", KEYS },
    { "POST", "/CreateIngestConfiguration", KEYS }, { "POST", "/GetIngestConfiguration", KEYS },
    { "POST", "/UpdateIngestConfiguration", KEYS } },
  geo = { { "POST", "/metadata/v0/keys", KEYS }, { "GET", "/metadata/v0/keys/*", KEYS } },
  ["emr-containers"] = { { "POST", "/virtualclusters/*/endpoints/*/credentials", KEYS } },
}
for _, rows in pairs(minting_paths) do
  for _, row in ipairs(rows) do
    row.pattern = "^" .. row[2]:lower():gsub("[^%w*/]", "%%%0"):gsub("%*", "[^/]+") .. "/?$"
  end
end

-- By lower-case name, for nobody knows which servers mind capitals: { name as AWS spells it, what it makes }.
for _, actions in pairs(minting) do
  local names = {}
  for name in pairs(actions) do names[#names + 1] = name end
  for _, name in ipairs(names) do actions[name:lower()], actions[name] = { name, actions[name] }, nil end
end

-- The services whose actions stand in a form: their body is read, or an action in it would pass unseen.
local in_form = { iam = true, sts = true, ec2 = true, redshift = true, elasticmapreduce = true }

-- Names that are signed for by services of both kinds: by path their bodies are data, sagemaker's up to 25 MiB.
local by_path_too = { sagemaker = true, ["aws-marketplace"] = true }

-- Smithy's RPC v2: the action is in the path, and the body CBOR.
local function is_cbor(req)
  return req.headers:get("smithy-protocol") == "rpc-v2-cbor" and (req.headers:get("content-type") or ""):lower():find("^application/cbor") ~= nil
end

-- Every service that the request may be for. Whoever receives it is known by its host; the rest are for hosts that
-- say nothing of themselves.
local function services_of(req, cred)
  local set, sig, at = {}, M.signature(req.stripped), M.host(req.host)
  if at and at.service then set[at.service] = true end
  if cred.service then set[cred.service] = true end
  if sig then set[sig.service] = true end
  return set
end

-- Services whose actions are named by X-Amz-Target may take them from a form where that is absent, or a form is sent.
local function may_mint_in_form(req, cred, services)
  if req.method:upper() ~= "POST" then return false end
  local target, kind = req.headers:get("x-amz-target"), (req.headers:get("content-type") or ""):lower()
  local form, cbor = kind:find("urlencoded", 1, true) ~= nil, is_cbor(req)
  for service in pairs(services or services_of(req, cred)) do
    local rest = by_path_too[service] and not form and not target and req.path:find("^/[%w_-]")
    if in_form[service] or minting[service] and (not target or form) and not cbor and not rest then return true end
  end
  return false
end

-- Calls see(action, in small letters) for each action that the request may be read to name; true where it cannot be
-- read.
local function each_action(req, see)
  local targets = 0
  for _, name in ipairs(req.headers:names()) do
    if name:gsub("_", "-") == "x-amz-target" then targets = targets + 1 end
  end
  if targets > 1 then return true end
  for word in (req.headers:get("x-amz-target") or ""):gmatch("[%w_]+") do see(word:lower()) end
  local readings = require("paths").ways(req.path)
  if not readings then return true end
  for _, reading in ipairs(readings) do
    see(reading:lower():match("/operation/([%w_]+)/?$") or "")
  end
  for _, text in ipairs { req.query_string or "", type(req.body) == "string" and not is_cbor(req) and req.body or "" } do
    local values = require("form").values(text, "action", "operation")
    if not values then return true end
    for _, value in ipairs(values) do see(value) end
  end
  return false
end

-- May a server read other letters in the form than stand there?
local function recoded(req) return require("body").of(req.headers).why ~= nil end

local function has_parameter(req, names)
  local values = require("form").values(req.query_string or "", table.unpack(names))
  return values == nil or #values ~= 0
end

local function by_path(req, service)
  local rows, method = minting_paths[service], req.method:upper()
  if not rows then return nil end
  local readings = require("paths").ways(req.path)
  if not readings then  -- it counts as every path; but an object's name is nearly anything
    return (service ~= "s3" or req.host:find("s3-control", 1, true)) and rows[1][3] or nil
  end
  for _, reading in ipairs(readings) do
    for _, row in ipairs(rows) do
      if (method == row[1] or row[1] == "GET" and method == "HEAD") and reading:lower():find(row.pattern)
        and (not row[4] or has_parameter(req, row[4])) then
        return row[3]
      end
    end
  end
end


--- For `mint`: what this call would make, nil: nothing.
function M.mint(req, cred)
  local services, what = services_of(req, cred), nil
  if may_mint_in_form(req, cred, services) and recoded(req) then
    return "nobody knows what: its body is compressed, or in a charset of its own"
  end
  for service in pairs(services) do
    local actions, made = minting[service], by_path(req, service)
    if made then what = ("%s (%s %s)"):format(made, service, req.method) end
    if (service == "s3" or service == "s3express") and has_parameter(req, { "session" }) then what = "keys (s3:CreateSession)" end
    if actions then
      local unreadable = each_action(req, function(action)
        local row = actions[action]
        if row then what = ("%s (%s:%s)"):format(row[2], service, row[1]) end
      end)
      if unreadable then what = what or "nobody knows what: its action cannot be read" end
    end
  end
  return what
end

-- ---- roles --------------------------------------------------------------------------------------

-- Where a partition has STS: its domain, the region that is taken where none is named, and what its regions begin with.
local partitions = {
  aws = { ".amazonaws.com", "us-east-1" }, ["aws-cn"] = { ".amazonaws.com.cn", "cn-north-1", "cn-" },
  ["aws-us-gov"] = { ".amazonaws.com", "us-gov-west-1", "us-gov-" }, ["aws-eusc"] = { ".amazonaws.eu", "eusc-de-east-1", "eusc-" },
  ["aws-iso"] = { ".c2s.ic.gov", "us-iso-east-1", "us-iso-" }, ["aws-iso-b"] = { ".sc2s.sgov.gov", "us-isob-east-1", "us-isob-" },
  ["aws-iso-e"] = { ".cloud.adc-e.uk", "eu-isoe-west-1", "eu-isoe-" },
  ["aws-iso-f"] = { ".csp.hci.ic.gov", "us-isof-south-1", "us-isof-" },
}

local function partition_of(region)
  for name, p in pairs(partitions) do
    if p[3] and region:sub(1, #p[3]) == p[3] then return name end
  end
  return "aws"
end

--- host, region of STS for a role, nearest to `region` if that is one of AWS's; without a role that of the region.
-- nil: no partition, or no region, that we know.
function M.sts(role_arn, region)
  local known = is_region(region)
  if not role_arn and not known then return nil end
  local at = partitions[role_arn and role_arn:match("^arn:([%w-]+):iam::%d+:role/.") or not role_arn and partition_of(region)]
  if not at then return nil end
  if not known and not at[3] then return "sts.amazonaws.com", at[2] end   -- the one that is nobody's region
  region = known and region or at[2]
  return "sts." .. region .. at[1], region
end

-- What STS says, in the words of a token endpoint. A clock that is off answers SignatureDoesNotMatch: that may pass.
local sts_codes = {
  InvalidClientTokenId = "invalid_client", UnrecognizedClientException = "invalid_client", ExpiredToken = "invalid_client",
  ExpiredTokenException = "invalid_client", AccessDenied = "access_denied", AccessDeniedException = "access_denied",
  ValidationError = "invalid_request", MalformedPolicyDocument = "invalid_request", RegionDisabledException = "access_denied",
  Throttling = "slow_down", ThrottlingException = "slow_down", RequestLimitExceeded = "slow_down",
}

--- Judges an answer of AssumeRole: the state that refresh returns | nil, code, detail.
function M.assumed(answer, sent_at, duration)
  local v = answer.values or {}
  local detail = { status = answer.status, retry_after = answer.retry_after }
  if v["Error.Code"] then return nil, sts_codes[v["Error.Code"]] or answer.status >= 500 and "unavailable" or "refused", detail end
  if answer.status == 429 or answer.status >= 500 then return nil, "unavailable", detail end
  if answer.status ~= 200 then return nil, "refused", detail end
  local at = "AssumeRoleResponse.AssumeRoleResult.Credentials."
  local id, secret, token = v[at .. "AccessKeyId"], v[at .. "SecretAccessKey"], v[at .. "SessionToken"]
  if answer.malformed or not (id and secret and token) then return nil, "malformed", detail end
  local ends = v[at .. "Expiration"]
  if type(ends) ~= "number" or ends <= sent_at then ends = sent_at + duration end
  return {
    secrets = { access_key_id = id, secret_access_key = secret, session_token = token }, expires_at = math.floor(ends),
  }
end

-- ---- fields -------------------------------------------------------------------------------------

--- For `validate`: true | nil, field, message.
function M.check(cred, given)
  local id = cred.access_key_id
  if not id:find("^[!-~]+$") or id:find("[/,]") or #id > ID_MAX then
    return nil, "access_key_id", ("has at most %d visible characters, no '/' and no ',': AKIAIOSFODNN7EXAMPLE, account:user"):format(ID_MAX)
  end
  if id:find("^ASIA") and #id == 20 and not cred.session_token then
    return nil, "session_token", "is missing: ASIA… keys are temporary and go with one"
  end
  for _, name in ipairs { "region", "service" } do
    local v = cred[name]
    if v and (v == "" or not v:find("^[%w._~-]+$") or #v > 64) then
      return nil, name, "is one word: " .. (name == "region" and "us-east-1" or "s3")
    end
  end
  for _, host in ipairs(not (cred.region and cred.service) and given or {}) do
    if not suffix_of(host) and not host:find("$", 1, true) then
      return nil, cred.region and "service" or "region", ("is missing: %s is not one of Amazon's hosts, which say it themselves"):format(host)
    end
  end
  return true
end

-- ---- signing -------------------------------------------------------------------------------------

--- For `body`: {} or { max } where the hash of the body is wanted and the client does not say it, or an action may stand in it.
function M.body(req, cred)
  if req.body_kind == "none" then return nil end
  local sig = M.signature(req.stripped)
  if payload_of(req, sig) == nil then
    local at = M.host(req.host)
    local s3 = s3_like[cred.service or sig and sig.service or at and at.service or ""]
    if not (s3 and sig and sig.query) then return {} end
  end
  if may_mint_in_form(req, cred) then return { max = ACTION_MAX } end
  return nil
end

-- Seconds that a presigned URL of version 2 (until a date) or 4 (for so long) is to live.
local function expires_of(req, sig)
  if sig then return sig.expires and sig.expires:match("^%d+$") and math.min(tonumber(sig.expires), EXPIRES_MAX) or 3600 end
  local at = tonumber(req.query:get("Expires") or "") or 0
  return math.max(1, math.min(math.floor(at) - require("time").wall(), EXPIRES_MAX))
end

--- Signs `req` with keys = { access_key, secret, token }, for what the fields of cred, the sandbox's signature or the
-- host say. nil | nil, why. `at`: Unix s, for examples.
function M.sign(req, cred, keys, at)
  local stripped = req.stripped
  local sig = M.signature(stripped)
  local older = not sig and stripped.query.AWSAccessKeyId ~= nil and stripped.query.Signature ~= nil
  local region, service, region_set = M.scope(req.host, cred, sig)
  if not region then return nil, service end
  local s3, query = s3_like[service] or false, older or sig and sig.query or false
  local payload, why = payload_of(req, sig, s3 and not region_set)
  if payload == false then return nil, why end
  if query and s3 and not payload then payload = "UNSIGNED-PAYLOAD" end
  local expires
  if query then
    expires = tostring(expires_of(req, sig))
    if older then req.query:remove("Expires") end
  end
  req:sigv4 {
    access_key = keys.access_key, secret = keys.secret, token = keys.token, region = region, service = service,
    region_set = region_set, payload = payload, hash_header = s3 and not query and not payload, s3 = s3,
    signed = sig and sig.signed, at = at, query = query, expires = expires, token_after = service == "iotdevicegateway",
  }
end

return M
