"""Every call of AWS whose answer holds a key, a token, a password or a link that signs in: it is refused, or listed here with the
reason why not. The calls are those of the newest botocore on this machine: Debian's, or another Python's."""
import fnmatch
import gzip
import json
import os
import pathlib
import re
import subprocess

# The last words of a member that may be a secret; and names that only sound so: of a page, of a request made once.
SECRET = re.compile(
    r"(secretaccesskey|privatekey|secretkey|apikey|clientsecret|sharedsecret|secret|secretvalue|passwords?|passphrase|plaintext|"
    r"keymaterial|secretstring|secretbinary|activationcode|authcode|authorizationcode|secretcode|passworddata|tokenvalue|tokenstring|"
    r"token|signedur[li]|signeds3url|signedlogurl|signedbiurl|streamingurl|embedurl|signinurl|authorizedurl|loginurl|anonymousurl|"
    r"streamurl|authcodeurl|privatekeyplaintext|privatekeybase64|credentials?|cookie|jwt|assertion|otp|unlockcode|challengecode|"
    r"deeplinkurl|mackey|base32stringseed|connectionstring|identitycontext|streamkey|webhooksecret)$", re.I)
HARMLESS = re.compile(
    r"(next|page|pagination|continuation|client|request|idempotency|change|checkpoint|sequence|lock|updated?|view|version|list|policy|"
    r"conditional|creation|feedback|import|export|result|retrieval|term|preview|offer|sync|anomaly|chunk|message|forward|backward|task|"
    r"job|workunit|progress|grant|callback|customer|configuration|consumption|purchase)token$", re.I)
# Calls whose names say what they answer, whatever its member is called.
CALL = re.compile(
    r"^(Get|Create|Generate|Issue|Exchange|Rotate|Reset|Refresh|Export|Retrieve|Assume|Download)\w*"
    r"(PresignedUrl|PresignedURL|LoginUrl|SignInUrl|PortalUrl|GridUrl|DashboardUrl|UnlockCode|AuthCode|ConnectionString|Credentials?|"
    r"AccessToken|AuthToken|Password|PrivateKey|ApiKey|APIKey|AccessKey|UsagePlanKeys?|ApiKeys|StreamKey)$")

# Reason -> "service:Call", or "service:Call:member" with * and ?. A new call of a service is not covered by an old reason:
# where a reason is for many calls, it names the member.
LEFT = {
    "names a secret that is kept elsewhere, by its ARN, its name or a path": [
        "apigateway:*:*credentials", "apigateway:*:*authorizerCredentials", "appmesh:*:*.file.privateKey", "codebuild:*:*registryCredential.credential",
        "securityhub:GetFindings:*RegistryCredential.Credential", "ec2:*:*SqlServerCredentials", "fsx:*:*DomainJoinServiceAccountSecret",
        "kendra:DescribeDataSource:*.Credentials", "eventbridgev2:RotateWebhookCredentials",
        "bedrock-agentcore-control:RotatePaymentConnectorCredentials", "quicksight:*:*CredentialPair*"],
    "says again what somebody has set, masked or as it was": [
        "amplify:*:*basicAuthCredentials", "amplifybackend:GetBackendAuth", "appstream:*:*AccountPassword", "datasync:Describe*:*Password", "dms:*:*Password",
        "docdb:*:*MasterUserPassword", "neptune:*:*MasterUserPassword", "rds:*:*MasterUserPassword", "redshift:*:*MasterUserPassword",
        "securityhub:GetFindings:*MasterUserPassword", "ds:DescribeDirectories:*SharedSecret", "ec2:*VerifiedAccessTrustProvider*:*ClientSecret",
        "elbv2:*:*ClientSecret", "emr:DescribeCluster:*Password", "eventbridgev2:Describe*:*", "firehose:Describe*:*", "fsx:*:*Password",
        "glue:*Job*:*SourceControlDetails.AuthToken", "invoicing:GetProcurementPortalPreference:*Secret", "iot:*TopicRule*:*secretKey", "iot:GetTopicRule:*salesforce.token",
        "iotwireless:AssociateAwsAccountWithPartnerAccount:*", "ivs:*:*passphrase", "lexv2-models:*:*Password",
        "lightsail:GetRelationalDatabase*:*pendingModifiedValues*", "mediaconvert:*:*CertificateSecret", "medialive:*:*.Token",
        "mediapackage*:*:*CdnIdentifierSecret", "pinpoint:*:*ChannelResponse.Credential", "wickr:*Opentdf*:clientSecret",
        "wickr:RegisterOidcConfig:*ecret", "chime-sdk-identity:*:*DeviceToken", "connecthealth:*:*oauthToken",
        "codepipeline:*Webhook*:*SecretToken", "codebuild:*Project*:*webhook.secret", "dataexchange:*:*ApiKey", "opsworks:Describe*:*Password", "opsworks:Describe*:*PrivateKey",
        "cloudhsmv2:*:*PreCoPassword", "grafana:*:*grafanaToken", "eks:*:*connectorConfig.activationCode", "eks:*:*licenses*",
        "alexaforbusiness:GetNetworkProfile:*Password", "bedrock-agent:*:*connectionString", "iam:ListVirtualMFADevices:*Base32StringSeed"],
    "one document for an hour, which the call itself could have brought; or where to put one": [
        "artifact:*:*PresignedUrl", "bedrock-agent-runtime:GetDocumentContent", "cognito-idp:*UserImportJob*:*PreSignedUrl", "connect:GetPromptFile", "dataexchange:*:*SignedUrl",
        "gamelift:GetGameSessionLogUrl", "gamelift:DescribeFleetEvents", "greengrassv2:GetComponentVersionArtifact", "groundstation:GetAgentTaskResponseUrl",
        "mailmanager:*ImportJob*:*PreSignedUrl", "qapps:CreatePresignedUrl", "qbusiness:GetDocumentContent", "security-ir:GetCaseAttachment*Url", "taxsettings:*:*"],
    "what somebody has stored: what this credential may read is IAM's to say": [
        "secretsmanager:GetSecretValue", "secretsmanager:BatchGetSecretValue", "mediapackage:*:*IngestEndpoints.Password", "lightsail:GetBucketAccessKeys"],
    "a cipher's work on what the call brings, or chance": [
        "kms:De*", "kms:Encapsulate", "kms:Generate*", "secretsmanager:GetRandomPassword", "payment-cryptography:ExportKey", "payment-cryptography-data:*"],
    "a public text: in DNS, in a web page, in a report": [
        "ec2:*IpamExternalResourceVerificationToken*", "ses:*:*VerificationToken", "ivs-realtime:*PublicKey:*", "securityagent:*TargetDomain*", "wafv2:ListAPIKeys", "wafv2:GetDecryptedAPIKey",
        "logs:ListAnomalies", "quicksight:*:*PlainText", "workspaces:DescribeConnectionAliases"],
    "a mark of this conversation, or of one change: it opens nothing elsewhere": [
        "cloudformation:RegisterType", "codepipeline:GetPipelineState", "cognito-sync:ListRecords", "entityresolution:*Polic*", "servicecatalog:*:*Token",
        "neptunedata:ExecuteFastReset", "license-manager:Checkout*", "backupstorage:ListObjects", "opsworkscm:*Node", "qldb-session:SendCommand"],
    "filled for GetConnection?withSecret=true alone, which is refused": [
        "datazone:CreateConnection", "datazone:UpdateConnection", "datazone:ListConnections"],
    "asked with a participant's token, which is refused to be made": ["connectparticipant:CreateParticipantConnection"],
    "a page on which a person consents": ["appflow:DescribeConnectorProfiles:*authCodeUrl", "appflow:*:*"],
}


def newest():
    """(version, directory of the models, its Python) of the newest botocore that some Python here has; None"""
    found = []
    for python in dict.fromkeys(["/usr/bin/python3", *(f"{d}/python3" for d in os.environ.get("PATH", "").split(":") if d)]):
        r = subprocess.run([python, "-c", "import botocore; print(botocore.__version__); print(botocore.__file__)"], capture_output=True,
                           text=True) if os.access(python, os.X_OK) else None
        if r and r.returncode == 0:
            version, file = r.stdout.split("\n")[:2]
            found.append(([int(n) for n in version.split(".") if n.isdigit()], version, pathlib.Path(file).parent / "data", python))
    return max(found)[1:] if found else None


def models(directory):
    for service in sorted(p for p in directory.iterdir() if p.is_dir()):
        files = sorted(service.glob("*/service-2.json*"))
        if files:
            raw = files[-1].read_bytes()
            yield service.name, json.loads(gzip.decompress(raw) if files[-1].suffix == ".gz" else raw)


def secrets_of(model, name, path=(), seen=frozenset()):
    """Dotted names of what may be a secret within a shape."""
    shape = model["shapes"][name]
    if name in seen or len(path) > 10:
        return
    seen = seen | {name}
    inner = {"list": [shape.get("member")], "map": [shape.get("value")]}.get(shape["type"])
    if inner:
        yield from secrets_of(model, inner[0]["shape"], path, seen)
    for member, ref in shape.get("members", {}).items():
        target = model["shapes"][ref["shape"]]
        if target["type"] in ("string", "blob"):
            plain = re.sub("[_-]", "", member)
            if not target.get("enum") and SECRET.search(plain) and not HARMLESS.search(plain):
                yield ".".join([*path, member])
        elif target["type"] in ("structure", "list", "map"):
            yield from secrets_of(model, ref["shape"], (*path, member), seen)


def request_of(model, name, operation):
    """The call as a client of this service sends it, but for its parameters."""
    meta = model["metadata"]
    uri = operation["http"]["requestUri"]
    path, _, query = re.sub(r"\{[^}]*\}", "x", uri).partition("?")
    protocol = (meta.get("protocols") or [meta["protocol"]])[0]
    out = {"method": operation["http"]["method"], "host": f"{meta['endpointPrefix']}.us-east-1.amazonaws.com", "path": path or "/",
           "query": query, "headers": {}, "service": meta.get("signingName") or meta["endpointPrefix"]}
    # what only some of its answers hold is asked for
    out["query"] += "".join(f"&{n}=true" for n in ("withSecret", "includeValue", "includeValues")) if out["method"] == "GET" else ""
    if protocol == "smithy-rpc-v2-cbor":
        out["headers"] = {"smithy-protocol": "rpc-v2-cbor", "content-type": "application/cbor"}
        out["path"] = f"/service/{meta['targetPrefix']}/operation/{name}"
    elif "targetPrefix" in meta:
        out["headers"] = {"x-amz-target": f"{meta['targetPrefix']}.{name}", "content-type": "application/x-amz-json-1.1"}
    elif protocol in ("query", "ec2"):
        out["headers"], out["body"] = {"content-type": "application/x-www-form-urlencoded"}, f"Action={name}&Version=1"
    return out


SCRIPT = """
local aws, json = require "aws", require "json"
local text = io.open(arg[1]):read "a"
for _, q in ipairs(json.decode(text)) do
  local headers = {}
  function headers:get(name) return q.headers[name] end
  function headers:names() local out = {} for name in pairs(q.headers) do out[#out + 1] = name end return out end
  local at = aws.host(q.host)
  local req = { method = q.method, host = q.host, path = q.path, query_string = q.query, body = q.body, headers = headers,
    stripped = { headers = {}, query = {} } }
  print(aws.mint(req, { service = q.service }) or "-")
end
"""


def reason(service, name, members):
    """Why the call is left alone: one reason that holds for each member; None"""
    for why, patterns in LEFT.items():
        if any(fnmatch.fnmatchcase(f"{service}:{name}", p) for p in patterns):
            return why
    whys = [next((why for why, patterns in LEFT.items() if any(fnmatch.fnmatchcase(f"{service}:{name}:{m}", p) for p in patterns)), None)
            for m in members]
    return whys[0] if whys and all(whys) else None


def test_every_call(t):
    """botocore's models: whatever answers with a key, a token or a password is refused, or listed with its reason"""
    found = newest() or t.skip("no Python here has botocore")
    asked = []
    for service, model in models(found[1]):
        for name, operation in model["operations"].items():
            members = list(secrets_of(model, operation["output"]["shape"])) if "output" in operation else []
            if members or CALL.search(name) and "output" in operation:
                asked.append((service, name, members, request_of(model, name, operation)))
    assert len(asked) > 200, f"botocore {found[0]} has {len(asked)} such calls: are its models read?"
    s = t.bare()
    (s.dir / "calls.json").write_text(json.dumps([a[3] for a in asked]))
    (s.dir / "calls.lua").write_text(SCRIPT)
    made = s.cli("lua", s.dir / "calls.lua", s.dir / "calls.json", timeout=120).stdout.splitlines()
    assert len(made) == len(asked)
    open_ = [f"{service}:{name} ({', '.join(members[:3])})" for (service, name, members, _), what in zip(asked, made)
             if what == "-" and not reason(service, name, members)]
    assert not open_, f"botocore {found[0]}: {len(open_)} calls are neither refused nor listed:\n" + "\n".join(open_)
    refused = sum(what != "-" for what in made)
    assert refused > 80, refused


# Prints service, host, signing name and region of each service's endpoint, as botocore's own rules have it.
ENDPOINTS = """
import sys, botocore.loaders, botocore.endpoint_provider as ep
loader = botocore.loaders.Loader()
partitions = loader.load_data("partitions")
for name in loader.list_available_services("service-2"):
    meta = loader.load_service_model(name, "service-2")["metadata"]
    try:
        provider = ep.EndpointProvider(loader.load_service_model(name, "endpoint-rule-set-1"), partitions)
    except Exception:
        continue
    for region in sys.argv[1:]:
        for dual in (False, True):
            try:
                at = provider.resolve_endpoint(Region=region, UseFIPS=False, UseDualStack=dual)
            except Exception:
                continue   # it needs a bucket, an account, …, or is not there
            schemes = at.properties.get("authSchemes") or [{}]
            auth = next((s for s in schemes if s.get("name", "sigv4") == "sigv4"), None)
            host = at.url.split("/")[2]
            if auth is not None and meta.get("signatureVersion", "v4") in ("v4", "s3v4", "v2", "s3"):
                print(name, host, auth.get("signingName") or meta.get("signingName") or meta["endpointPrefix"], auth.get("signingRegion") or region)
"""
HOSTS_SCRIPT = """
local aws = require "aws"
for line in io.lines(arg[1]) do
  local name, host, service, region = line:match("^(%S+) (%S+) (%S+) (%S+)$")
  local at = aws.host(host) or {}
  if at.service ~= service or at.region ~= region then print(name, host, service, region, at.service, at.region) end
end
"""
REGIONS = ["us-east-1", "eu-west-1", "us-gov-west-1", "cn-north-1", "eusc-de-east-1"]
# Hosts that are no rule's, or that tell too little.
ODD = {
    "importexport": "signed with version 2, under another name", 
    "signin": "its own domain", "iot-data": "a customer's own host", "iot-jobs-data": "a customer's own host", "opensearchmemory": "a space's own host",
    "geo-maps": "one host for two names, as geo-places and geo-routes: the sandbox's signature says which", "geo-places": "the same", "geo-routes": "the same",
    "budgets": "one host for two partitions", "cloudfront": "the same", "sustainability": "its one region is not in its host",
}


def test_every_host(t):
    """botocore's endpoint rules: each service's host says its name and region, in each partition, dual stack too"""
    found = newest() or t.skip("no Python here has botocore")
    if [int(n) for n in found[0].split(".")[:2]] < [1, 40]:
        t.skip(f"botocore {found[0]}: its rules make up hosts that there are not; aws_role asks its list of endpoints")
    s = t.bare()
    (s.dir / "hosts.py").write_text(ENDPOINTS)
    r = subprocess.run([found[2], s.dir / "hosts.py", *REGIONS], capture_output=True, text=True)
    lines = sorted(set(r.stdout.splitlines()))
    if r.returncode != 0 or len(lines) < 500:
        t.skip(f"botocore {found[0]} has no endpoint rules that can be read here")
    (s.dir / "hosts.txt").write_text("\n".join(lines) + "\n")
    (s.dir / "hosts.lua").write_text(HOSTS_SCRIPT)
    wrong = [line for line in s.cli("lua", s.dir / "hosts.lua", s.dir / "hosts.txt", timeout=120).stdout.splitlines()
             if line.split()[0] not in ODD and ".aws-global." not in line]
    assert not wrong, f"botocore {found[0]}: {len(wrong)} of {len(lines)} hosts are read otherwise:\n" + "\n".join(wrong)
