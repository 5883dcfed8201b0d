-- What the AWS types read off hosts, signatures and requests (lua/aws.lua).
local aws = require "aws"

local function is(got, want)
  if got ~= want then error(("got %q, want %q"):format(tostring(got), tostring(want)), 2) end
end

local function scope_of(host)
  local at = aws.host(host)
  if not at then return "not Amazon's" end
  return ("%s %s%s%s"):format(at.region or "-", at.service or "-", at.loose and " loose" or "", at.everywhere and " 4a" or "")
end

local function all(rows)
  for host, want in pairs(rows) do
    local got = scope_of(host)
    if got ~= want then error(("%s: got %q, want %q"):format(host, got, want), 2) end
  end
end

-- A request as `mint` and `body` see it.
local function request(text, more)
  more = more or {}
  local method, host, path, query = text:match("^(%S+) ([^/]+)([^?]*)%??(.*)$")
  local headers = more.headers or {}
  local function get(_, name) return headers[name] end
  return {
    method = method, host = host, path = path, query_string = query ~= "" and query or nil, body = more.body,
    body_kind = more.body and "length" or "none",
    stripped = { headers = { authorization = more.authorization }, query = more.query or {} },
    headers = { get = get, names = function() return more.names or { more.headers and next(more.headers) } end },
    query = { get = function(_, name) return (more.given or {})[name] end },
  }
end

local function signed(scope) return "AWS4-HMAC-SHA256 Credential=AKIAX/20150830/" .. scope .. "/aws4_request, SignedHeaders=host;x-a, Signature=0" end

local function mints(text, more, cred) return aws.mint(request(text, more), cred or {}) end

return {
  ["service.region hosts, in every partition"] = function()
    all {
      ["lambda.eu-west-1.amazonaws.com"] = "eu-west-1 lambda", ["lambda.eu-west-1.api.aws"] = "eu-west-1 lambda",
      ["lambda.cn-north-1.amazonaws.com.cn"] = "cn-north-1 lambda", ["sts.us-gov-west-1.amazonaws.com"] = "us-gov-west-1 sts",
      ["ec2.cn-northwest-1.api.amazonwebservices.com.cn"] = "cn-northwest-1 ec2",
      ["kms.us-iso-east-1.c2s.ic.gov"] = "us-iso-east-1 kms", ["kms.us-isob-east-1.sc2s.sgov.gov"] = "us-isob-east-1 kms",
      ["kms.us-iso-east-1.api.aws.ic.gov"] = "us-iso-east-1 kms", ["kms.us-isob-east-1.api.aws.scloud"] = "us-isob-east-1 kms",
      ["kms.us-isof-south-1.api.aws.hci.ic.gov"] = "us-isof-south-1 kms", ["kms.eu-isoe-west-1.api.cloud-aws.adc-e.uk"] = "eu-isoe-west-1 kms",
      ["neptune-graph.us-east-1.on.aws"] = "us-east-1 neptune-graph", ["aos.eu-west-1.api.aws"] = "eu-west-1 es",
      ["s3.eusc-de-east-1.amazonaws.eu"] = "eusc-de-east-1 s3", ["sqs.ap-southeast-7.amazonaws.com"] = "ap-southeast-7 sqs",
    }
  end,

  ["names that are signed otherwise than they are called"] = function()
    all {
      ["bedrock-runtime.us-west-2.amazonaws.com"] = "us-west-2 bedrock", ["email.us-east-1.amazonaws.com"] = "us-east-1 ses",
      ["cloudwatch-omni.us-east-1.amazonaws.com"] = "us-east-1 cloudwatch", ["eventsv2.us-east-1.amazonaws.com"] = "us-east-1 events",
      ["cassandra-streams.us-east-1.amazonaws.com"] = "us-east-1 cassandra", ["oidc.us-east-1.amazonaws.com"] = "us-east-1 sso-oauth",
      ["api.ecr.eu-central-1.amazonaws.com"] = "eu-central-1 ecr", ["api.ecr-public.us-east-1.amazonaws.com"] = "us-east-1 ecr-public",
      ["streams.dynamodb.us-east-1.amazonaws.com"] = "us-east-1 dynamodb",
      ["runtime.sagemaker.us-east-1.amazonaws.com"] = "us-east-1 sagemaker",
      ["data-ats.iot.us-east-1.amazonaws.com"] = "us-east-1 iotdata", ["abc123-ats.iot.us-east-1.amazonaws.com"] = "us-east-1 iotdata",
      ["iot.us-east-1.amazonaws.com"] = "us-east-1 iot", ["abc.data.mediastore.us-west-2.amazonaws.com"] = "us-west-2 mediastore",
      ["123456789012.ddb.us-east-1.amazonaws.com"] = "us-east-1 dynamodb",
    }
  end,

  ["endpoints of somebody's own"] = function()
    all {
      ["a1b2c3.execute-api.us-east-2.amazonaws.com"] = "us-east-2 execute-api",
      ["vpce-1-x.execute-api.us-east-2.vpce.amazonaws.com"] = "us-east-2 execute-api",
      ["xyz.lambda-url.us-east-1.on.aws"] = "us-east-1 lambda", ["xyz.appsync-api.us-east-1.amazonaws.com"] = "us-east-1 appsync",
      ["search-dom-abc.us-east-1.es.amazonaws.com"] = "us-east-1 es", ["abc.us-east-1.aoss.amazonaws.com"] = "us-east-1 aoss",
      ["eu-west-1.queue.amazonaws.com"] = "eu-west-1 sqs", ["c.cluster-x.us-east-1.neptune.amazonaws.com"] = "us-east-1 neptune-db",
      ["s-1a2b.kinesisvideo.us-west-2.amazonaws.com"] = "us-west-2 kinesisvideo",
      ["svc-0.7d67968.vpc-lattice-svcs.us-west-2.on.aws"] = "us-west-2 vpc-lattice-svcs",
    }
  end,

  ["S3 in all its forms"] = function()
    all {
      ["s3.amazonaws.com"] = "us-east-1 s3 loose", ["bucket.s3.amazonaws.com"] = "us-east-1 s3 loose",
      ["eu-west-1.s3.amazonaws.com"] = "us-east-1 s3 loose", ["my.dotted.bucket.s3.amazonaws.com"] = "us-east-1 s3 loose",
      ["s3.eu-west-1.amazonaws.com"] = "eu-west-1 s3", ["bucket.s3.eu-west-1.amazonaws.com"] = "eu-west-1 s3",
      ["s3-eu-west-1.amazonaws.com"] = "eu-west-1 s3", ["bucket.s3-us-gov-west-1.amazonaws.com"] = "us-gov-west-1 s3",
      ["s3-fips-us-gov-west-1.amazonaws.com"] = "us-gov-west-1 s3", ["s3-external-1.amazonaws.com"] = "us-east-1 s3",
      ["bucket.s3.dualstack.ap-south-1.amazonaws.com"] = "ap-south-1 s3", ["s3-fips.dualstack.us-east-1.amazonaws.com"] = "us-east-1 s3",
      ["ap-123.s3-accesspoint.us-east-1.amazonaws.com"] = "us-east-1 s3",
      ["ap-123.s3-accesspoint-fips.dualstack.us-east-1.amazonaws.com"] = "us-east-1 s3",
      ["bucket.s3-accelerate.amazonaws.com"] = "- s3", ["bucket.s3-accelerate.dualstack.amazonaws.com"] = "- s3",
      ["123456789012.s3-control.us-east-1.amazonaws.com"] = "us-east-1 s3",
      ["ap-1.op-1.s3-outposts.us-east-1.amazonaws.com"] = "us-east-1 s3-outposts",
      ["ol-1.s3-object-lambda.us-east-1.amazonaws.com"] = "us-east-1 s3-object-lambda",
      ["bucket--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com"] = "us-east-1 s3express",
      ["bucket.vpce-1-x.s3.us-east-1.vpce.amazonaws.com"] = "us-east-1 s3",
      ["alias.mrap.accesspoint.s3-global.amazonaws.com"] = "- s3 4a", ["bucket.s3.cn-north-1.amazonaws.com.cn"] = "cn-north-1 s3",
    }
  end,

  ["global services have one region each, by partition"] = function()
    all {
      ["iam.amazonaws.com"] = "us-east-1 iam", ["sts.amazonaws.com"] = "us-east-1 sts", ["cloudfront.amazonaws.com"] = "us-east-1 cloudfront",
      ["route53.amazonaws.com"] = "us-east-1 route53", ["global.health.amazonaws.com"] = "us-east-1 health",
      ["globalaccelerator.amazonaws.com"] = "us-west-2 globalaccelerator", ["iam.us-gov.amazonaws.com"] = "us-gov-west-1 iam",
      ["route53.us-gov.amazonaws.com"] = "us-gov-west-1 route53", ["route53.amazonaws.com.cn"] = "cn-northwest-1 route53",
      ["route53.c2s.ic.gov"] = "us-iso-east-1 route53", ["importexport.amazonaws.com"] = "us-east-1 IngestionService",
      ["route53.global.api.aws"] = "us-east-1 route53", ["iam.global.api.aws"] = "us-east-1 iam", ["iam.us-gov.api.aws"] = "us-gov-west-1 iam",
      ["iam.global.api.amazonwebservices.com.cn"] = "cn-north-1 iam", ["route53.global.api.amazonwebservices.eu"] = "eusc-de-east-1 route53",
      ["codecatalyst.global.api.aws"] = "us-east-1 codecatalyst", ["partnercentral-prm-fips.global.api.aws"] = "us-east-1 partnercentral",
      ["budgets.global.sc2s.sgov.gov"] = "us-isob-east-1 budgets",
      ["1234.cloudfront-kvs.global.api.aws"] = "- cloudfront-keyvaluestore 4a", ["abc.endpoint.events.amazonaws.com"] = "- events 4a",
    }
  end,

  ["FIPS, wherever it stands"] = function()
    all {
      ["kms-fips.us-east-1.amazonaws.com"] = "us-east-1 kms", ["fips.transcribe.us-west-2.amazonaws.com"] = "us-west-2 transcribe",
      ["runtime-fips.lex.us-east-1.amazonaws.com"] = "us-east-1 lex", ["api-fips.sagemaker.us-east-1.amazonaws.com"] = "us-east-1 sagemaker",
      ["ingest.timestream-fips.us-east-1.amazonaws.com"] = "us-east-1 timestream", ["email-fips.us-east-1.amazonaws.com"] = "us-east-1 ses",
    }
  end,

  ["what is not Amazon's, and what says nothing"] = function()
    all {
      ["minio.example.com"] = "not Amazon's", ["amazonaws.com"] = "not Amazon's", ["s3.amazonaws.com.evil.test"] = "not Amazon's",
      ["x.evilamazonaws.com"] = "not Amazon's", ["something.amazonaws.com"] = "- -", ["a.b.c.amazonaws.com"] = "- -",
      ["us-east-1.amazonaws.com"] = "- -", ["my-app-1.amazonaws.com"] = "- -",
    }
  end,

  ["a signature does not reach anybody's machine, balancer or site, whatever the sandbox says"] = function()
    local iam = aws.signature { headers = { authorization = signed "us-east-1/iam" }, query = {} }
    local four_a = aws.signature { query = {},
      headers = { authorization = "AWS4-ECDSA-P256-SHA256 Credential=AKIAX/20150830/iam/aws4_request, SignedHeaders=host, Signature=0" } }
    for _, host in ipairs { "ec2-54-1-2-3.compute-1.amazonaws.com", "ec2-54-1-2-3.us-east-1.compute.amazonaws.com",
      "lb-1.us-east-1.elb.amazonaws.com", "lb-1.elb.us-east-1.amazonaws.com", "ec2-1-2-3-4.cn-north-1.compute.amazonaws.com.cn",
      "b.s3-website-us-east-1.amazonaws.com", "b.s3-website.us-east-1.amazonaws.com", "x.c1.us-east-1.rds.amazonaws.com",
      "vpce-1.vpce-svc-2.us-east-1.vpce.amazonaws.com", "x.ecs.us-east-1.on.aws", "x.on.aws" } do
      for _, sig in ipairs { false, iam, four_a } do
        local region, why = aws.scope(host, {}, sig or nil)
        is(region, nil)
        assert(why:find("anybody's machine or site", 1, true), why)
        is((aws.scope(host, { service = "s3" }, sig or nil)), nil)
      end
      is((aws.scope(host, { region = "r", service = "s3" }, iam)), "r")
    end
    all { ["rds.us-east-1.amazonaws.com"] = "us-east-1 rds", ["rds.rds-fips.us-east-1.amazonaws.com"] = "us-east-1 rds" }
  end,

  ["behind which anybody's code may answer is signed for that service alone"] = function()
    local iam = aws.signature { headers = { authorization = signed "us-east-1/iam" }, query = {} }
    for host, want in pairs {
      ["x.execute-api.us-east-1.amazonaws.com"] = "execute-api", ["x.lambda-url.us-east-1.on.aws"] = "lambda",
      ["x.y.vpc-lattice-svcs.us-east-1.on.aws"] = "vpc-lattice-svcs", ["x.appsync-api.us-east-1.amazonaws.com"] = "appsync",
      ["search-x.us-east-1.es.amazonaws.com"] = "es",
    } do
      local region, service = aws.scope(host, {}, iam)
      is(region .. " " .. service, "us-east-1 " .. want)
    end
  end,

  ["STS is that of the role's partition, or of a region's, and of nothing else"] = function()
    local function sts(role, region) return table.concat({ aws.sts(role and ("arn:%s:iam::123456789012:role/r"):format(role), region) }, " ") end
    is(sts("aws"), "sts.amazonaws.com us-east-1")
    is(sts("aws", "eu-west-1"), "sts.eu-west-1.amazonaws.com eu-west-1")
    is(sts("aws", "my-app-1"), "sts.amazonaws.com us-east-1")
    is(sts "aws-cn", "sts.cn-north-1.amazonaws.com.cn cn-north-1")
    is(sts("aws-us-gov", "us-gov-east-1"), "sts.us-gov-east-1.amazonaws.com us-gov-east-1")
    is(sts "aws-iso-b", "sts.us-isob-east-1.sc2s.sgov.gov us-isob-east-1")
    is(sts "aws-none", "")
    for region, host in pairs { ["us-east-1"] = "amazonaws.com", ["us-gov-west-1"] = "amazonaws.com", ["cn-northwest-1"] = "amazonaws.com.cn",
      ["us-iso-west-1"] = "c2s.ic.gov", ["us-isob-east-1"] = "sc2s.sgov.gov", ["us-isof-south-1"] = "csp.hci.ic.gov",
      ["eu-isoe-west-1"] = "cloud.adc-e.uk", ["eusc-de-east-1"] = "amazonaws.eu", ["mx-central-1"] = "amazonaws.com" } do
      is(sts(nil, region), ("sts.%s.%s %s"):format(region, host, region))
    end
    for _, region in ipairs { "", "nowhere", "my-app-1", "eu-west-1.evil.test/x", "eu-west-1/", "EU-WEST-1" } do is(sts(nil, region), "") end
    is(aws.sts(nil, nil), nil)
  end,
  ["an agent that makes up hosts fills nothing"] = function()
    for i = 1, 2000 do is(scope_of(("b%d.s3.eu-west-1.amazonaws.com"):format(i)), "eu-west-1 s3") end
  end,

  ["fields come first, then the sandbox's scope if its region is the host's, then the host"] = function()
    local function scope(host, cred, authorization)
      local sig = authorization and aws.signature { headers = { authorization = authorization }, query = {} }
      local region, service, set = aws.scope(host, cred, sig)
      return region and region .. " " .. service .. (set and " " .. set or "") or service
    end
    local runtime = "bedrock-runtime.us-east-1.amazonaws.com"
    is(scope(runtime, {}), "us-east-1 bedrock")
    is(scope(runtime, {}, signed "us-east-1/newname"), "us-east-1 newname")
    is(scope(runtime, {}, signed "eu-west-1/newname"), "us-east-1 bedrock")
    is(scope(runtime, { service = "x", region = "y" }, signed "us-east-1/newname"), "y x")
    is(scope("bucket.s3.amazonaws.com", {}, signed "eu-west-1/s3"), "eu-west-1 s3")
    is(scope("bucket.s3.amazonaws.com", {}), "us-east-1 s3")
    is(scope("bucket.s3-accelerate.amazonaws.com", {}, signed "eu-west-1/s3"), "eu-west-1 s3")
    is(scope("bucket.s3-accelerate.amazonaws.com", { region = "eu-west-2" }), "eu-west-2 s3")
    is(scope("something.amazonaws.com", {}, signed "eu-west-1/something"), "eu-west-1 something")
    is(scope("minio.test", { service = "s3", region = "us-east-1" }), "us-east-1 s3")
    is(scope("minio.test", { service = "s3" }, signed "us-east-1/s3"), "minio.test is not one of Amazon's hosts: the credential needs region=…")
    is(scope("minio.test", {}), "minio.test is not one of Amazon's hosts: the credential needs region=… and service=…")
    is(scope("bucket.s3-accelerate.amazonaws.com", {}), "bucket.s3-accelerate.amazonaws.com does not say what to sign for: the credential needs region=…")
    is(scope("a.mrap.accesspoint.s3-global.amazonaws.com", {}), " s3 *")
    local four_a = "AWS4-ECDSA-P256-SHA256 Credential=AKIAX/20150830/s3/aws4_request, SignedHeaders=host, Signature=0"
    is(scope("s3.us-east-1.amazonaws.com", {}, four_a), " s3 us-east-1")
  end,

  ["a signature is read from the header or the URL; what is none is none"] = function()
    local function read(authorization, query) return aws.signature { headers = { authorization = authorization }, query = query or {} } end
    local sig = read(signed "us-east-1/s3")
    is(sig.key .. sig.region .. sig.service .. sig.signed, "AKIAXus-east-1s3host;x-a")
    sig = read(nil, { ["X-Amz-Algorithm"] = "AWS4-HMAC-SHA256", ["X-Amz-Credential"] = "AK/20150830/eu-west-1/s3/aws4_request",
                      ["X-Amz-Expires"] = "60", ["X-Amz-SignedHeaders"] = "host" })
    is(sig.key .. sig.region .. sig.service .. sig.expires .. tostring(sig.query), "AKeu-west-1s360true")
    for _, text in ipairs { "Bearer x", "AWS AKIA:sig", "AWS4-HMAC-SHA256 Credential=AK/us-east-1/s3", "AWS4-HMAC-SHA256",
                            "AWS4-OTHER Credential=AK/20150830/r/s/aws4_request", signed "us-east-1/s3/more", signed "us-east-1/s3,x" } do
      is(read(text), nil)
    end
    is(read(nil, { ["X-Amz-Credential"] = "nonsense" }), nil)
  end,

  ["calls that make credentials are known by service and action, wherever the action stands"] = function()
    local iam, form = "POST iam.amazonaws.com/", "Version=2010-05-08&Action="
    assert(mints(iam, { body = form .. "CreateAccessKey" }))
    assert(mints("GET sts.us-east-1.amazonaws.com/?Action=AssumeRole&RoleArn=x"))
    assert(mints("GET sts.amazonaws.com/?%41ction=Get%53essionToken"))
    assert(mints("POST api.ecr.us-east-1.amazonaws.com/", {
      headers = { ["x-amz-target"] = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken" } }))
    assert(mints("POST iam.amazonaws.com/?Action=ListUsers", { body = form .. "CreateAccessKey" }))
    assert(mints(iam, { body = "Action=ListUsers&Action=CreateAccessKey" }))
    assert(mints("POST proxy.test/", { body = form .. "CreateAccessKey", authorization = signed "us-east-1/iam" }))
    assert(mints("POST localstack.test/", { body = form .. "CreateAccessKey" }, { service = "iam" }))
    assert(mints(iam, { body = "\31\139", headers = { ["content-encoding"] = "gzip" } }))
    assert(mints("post iam.amazonaws.com/", { body = form .. "CreateAccessKey" }))
    assert(mints("post codeartifact.us-east-1.amazonaws.com/v1/authorization-token"))
    assert(mints("POST codeartifact.us-east-1.amazonaws.com/v1/%zz"))  -- who knows which path that is
    assert(not mints("GET b.s3.us-east-1.amazonaws.com/%zz"))
    assert(mints("POST sts.amazonaws.com/", { headers = { ["x-amz-target"] = "x.AssumeRole" }, names = { "x-amz-target", "x-amz-target" } }))
    assert(mints("POST api.ecr.us-east-1.amazonaws.com/service/X/operation/GetAuthorization%54oken"))
    assert(mints("POST api.ecr.us-east-1.amazonaws.com/service/X%zz/operation/Get"))
    assert(mints("POST api.ecr.us-east-1.amazonaws.com/", { body = "Action=GetAuthorizationToken" }))
    is(mints(iam, { body = form .. "ListUsers" }), nil)
    is(mints(iam, { body = form .. "CreatePolicy&PolicyDocument=%7B%22Action%22:%22sts:AssumeRole%22%7D%26Action%3DCreateAccessKey" }), nil)
    is(mints("GET sts.amazonaws.com/?Action=GetCallerIdentity"), nil)
    is(mints("GET s3.amazonaws.com/bucket?Action=CreateAccessKey"), nil)
  end,

  ["no pair that a strict parser refuses hides the action"] = function()
    local make = "Action=CreateAccessKey"
    for _, text in ipairs { make .. "&x=%zz", "x=%&" .. make, ("a=1&"):rep(1001) .. make, ("a&"):rep(500000) .. make,
      "x=%00&" .. make, "x=\255\254&" .. make, " " .. make .. "\r\n", "action=createaccesskey", "a=1;" .. make,
      "%61ctio%6E=Create%41ccess%4bey%20", ("Action=ListUsers&"):rep(17) .. make } do
      assert(mints("POST iam.amazonaws.com/", { body = text }), text:sub(1, 40))
      assert(mints("GET iam.amazonaws.com/?" .. text:gsub("[ \r\n]", "")), text:sub(1, 40))
    end
    for kind, made in pairs { ["application/x-www-form-urlencoded; charset=utf-16"] = true, ["text/plain;charset=ibm037"] = true,
      ["application/x-www-form-urlencoded; charset=utf-8"] = false, ["application/x-www-form-urlencoded"] = false } do
      is(mints("POST iam.amazonaws.com/", { body = "x", headers = { ["content-type"] = kind } }) ~= nil, made)
    end
    for _, target in ipairs { "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken", "x.ListImages" } do
      assert(mints("POST api.ecr.us-east-1.amazonaws.com/", {
        headers = { ["x-amz-target"] = target }, names = { "x-amz-target", "x-amz-target" } }))
    end
  end,

  ["calls that make credentials are known by path, in every reading of it"] = function()
    assert(mints("GET bucket.s3express-use1-az4.us-east-1.amazonaws.com/?%73essio%6e"))
    assert(mints("GET bucket.s3express-use1-az4.us-east-1.amazonaws.com/?x=%zz&session"))
    assert(mints("GET 1.s3-control.us-east-1.amazonaws.com/v20180820/access%67rantsinstance/dataaccess"))
    assert(mints("POST apigateway.us-east-1.amazonaws.com/apikeys;%zz"))
    is(mints("GET bucket.s3.us-east-1.amazonaws.com/100%zz"), nil)
    assert(mints("GET bucket.s3express-use1-az4.us-east-1.amazonaws.com/?session"))
    assert(mints("GET bucket--x.s3.us-east-1.amazonaws.com/?x=1&session="))
    assert(mints("POST apigateway.us-east-1.amazonaws.com/apikeys"))
    assert(mints("POST apigateway.us-east-1.amazonaws.com/x/..//%61pikeys/"))
    assert(mints("POST iot.us-east-1.amazonaws.com/provisioning-templates/t/provisioning-claim"))
    is(mints("GET apigateway.us-east-1.amazonaws.com/apikeys"), nil)
    -- a parameter says that the keys come too
    assert(mints("GET apigateway.us-east-1.amazonaws.com/apikeys?limit=5&includeValue%73=true"))
    assert(mints("HEAD apigateway.us-east-1.amazonaws.com/apikeys/k1?includeValue=true"))
    is(mints("GET datazone.us-east-1.api.aws/v2/domains/d/connections/c?x=withSecret"), nil)
    assert(mints("GET datazone.us-east-1.api.aws/v2/domains/d/connections/c?withsecret=1"))
    assert(mints("POST sts.amazonaws.com/", { body = "Action=GetScopedCredentials" }))
    assert(mints("POST eks-auth.us-east-1.api.aws/clusters/c/assume-role-for-pod-identity"))
    assert(mints("POST cloudwatch-omni.us-east-1.amazonaws.com/service/X/operation/GetSpaceDataAccess", {
      headers = { ["smithy-protocol"] = "rpc-v2-cbor", ["content-type"] = "application/cbor" }, body = "\xbf%zz\xff" }))
    -- what is no form is not read as one where its action stands in its path
    local cbor = { ["smithy-protocol"] = "rpc-v2-cbor", ["content-type"] = "application/cbor" }
    is(mints("POST codebuild.us-east-1.amazonaws.com/service/X/operation/ListBuilds", { headers = cbor, body = "Action=CreateWebhook&%zz" }), nil)
    assert(mints("POST codebuild.us-east-1.amazonaws.com/", { body = "Action=CreateWebhook" }))
    is(aws.body(request("POST runtime.sagemaker.us-east-1.amazonaws.com/endpoints/e/invocations", { body = "x",
      headers = { ["x-amz-content-sha256"] = ("0"):rep(64), ["content-type"] = "text/csv" } }), {}), nil)
    is(aws.body(request("POST sagemaker.us-east-1.amazonaws.com/", { body = "x",
      headers = { ["x-amz-content-sha256"] = ("0"):rep(64), ["content-type"] = "text/csv" } }), {}).max, 1 << 20)
    for _, call in ipairs { "GET finspace-api.us-east-1.amazonaws.com/credentials/programmatic",
      "GET management.deadline.us-west-2.amazonaws.com/2023-10-12/farms/farm-1/queues/queue-1/user-roles",
      "POST quicksight.us-east-1.amazonaws.com/accounts/1/embed-url/registered-user", "POST oidc.us-east-1.amazonaws.com/client/register",
      "POST ivsrealtime.us-east-1.amazonaws.com/CreateParticipantToken", "POST cp.metadata.geo.us-east-1.amazonaws.com/metadata/v0/keys" } do
      assert(mints(call), call)
    end
    for call, target in pairs { ["acm"] = "CertificateManager.ExportCertificate", codepipeline = "CodePipeline_20150709.PollForJobs",
      ["ec2-instance-connect"] = "AWSEC2InstanceConnectService.SendSSHPublicKey", wafv2 = "AWSWAF_20190729.CreateAPIKey",
      ["cognito-idp"] = "AWSCognitoIdentityProviderService.DescribeUserPoolClient" } do
      assert(mints("POST " .. call .. ".us-east-1.amazonaws.com/", { headers = { ["x-amz-target"] = target } }), call)
      is(mints("POST " .. call .. ".us-east-1.amazonaws.com/", { headers = { ["x-amz-target"] = "X.List" } }), nil)
    end
    is(mints("GET bucket.s3.us-east-1.amazonaws.com/session?sessions=1"), nil)
  end,

  ["a body is read where its hash is wanted or an action may stand in it"] = function()
    local function max(text, more, cred) local b = aws.body(request(text, more), cred or {}); return b and (b.max or "body-max") end
    local hash = { ["x-amz-content-sha256"] = ("0"):rep(64) }
    is(max("POST lambda.us-east-1.amazonaws.com/x", { body = "b" }), "body-max")
    is(max("GET lambda.us-east-1.amazonaws.com/x"), nil)
    is(max("PUT s3.us-east-1.amazonaws.com/b/k", { body = "b", headers = { ["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD" } }), nil)
    is(max("PUT s3.us-east-1.amazonaws.com/b/k", { body = "b", headers = hash }), nil)
    is(max("POST sts.us-east-1.amazonaws.com/", { body = "b", headers = hash }), 1 << 20)
    is(max("POST api.ecr.us-east-1.amazonaws.com/", { body = "b", headers = hash }), 1 << 20)
    is(max("POST api.ecr.us-east-1.amazonaws.com/", { body = "b",
      headers = { ["x-amz-target"] = "x.ListImages", ["x-amz-content-sha256"] = ("0"):rep(64) } }), nil)
    is(max("PUT s3.us-east-1.amazonaws.com/b/k", { body = "b",
      query = { ["X-Amz-Algorithm"] = "AWS4-HMAC-SHA256", ["X-Amz-Credential"] = "AK/20150830/us-east-1/s3/aws4_request" } }), nil)
  end,

  ["fields are held against what they must be"] = function()
    local function bad(cred) local ok, field = aws.check(cred); return ok and "good" or field end
    is(bad { access_key_id = "AKIAIOSFODNN7EXAMPLE" }, "good")
    is(bad { access_key_id = "minio", region = "auto", service = "s3" }, "good")
    is(bad { access_key_id = "AKIA/x" }, "access_key_id")
    is(bad { access_key_id = ("A"):rep(64) }, "good")
    is(bad { access_key_id = ("A"):rep(65) }, "access_key_id")
    is(bad { access_key_id = "ASIAIOSFODNN7EXAMPLE" }, "session_token")
    is(bad { access_key_id = "AKIAX", region = "us east" }, "region")
    is(bad { access_key_id = "AKIAX", service = "s3/x" }, "service")
  end,
}
