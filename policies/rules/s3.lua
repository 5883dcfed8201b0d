--- What may be done to buckets and objects beyond reading and writing them: deleting, copying, changing who may read.
--
--   sallyport rule add keep --type s3 --host '*.s3.eu-west-1.amazonaws.com'
--   sallyport rule add keep --type s3 --host s3.example.org deletes=allow
--   sallyport rule add keep --type s3 deletes=ask copies=ask
--
-- What is `ask` is held until a person answers (sallyport approval list).
-- Judged is the head, as S3's API has it (any server that speaks it): deletes are DELETE and POST ?delete; settings are writes to
-- a subresource of a bucket or an object (policy, acl, lifecycle, versioning, public access, and every other that is no upload),
-- the making of a bucket, and the headers x-amz-acl and x-amz-grant-*; copies are x-amz-copy-source and x-amz-rename-source,
-- whose place no path rule of this rule's looks at (`allow` leaves it to the credential's own paths). Uploads in parts and their
-- end are plain writes; an upload in parts that is given up (DELETE ?uploadId) is one, too. Hosts that begin with a bucket's name are
-- known of Amazon and others; at any other host what the path names first is the bucket.
local plain = {     -- subresources of what is written: an upload, and what a client names of it
  uploads = true, uploadid = true, partnumber = true, versionid = true, ["x-id"] = true, select = true, ["select-type"] = true,
}
local signing = { ["x-amz-algorithm"] = true, ["x-amz-credential"] = true, ["x-amz-date"] = true, ["x-amz-expires"] = true,
  ["x-amz-signedheaders"] = true, ["x-amz-signature"] = true, ["x-amz-security-token"] = true, ["x-amz-content-sha256"] = true }

-- The pairs of the query; nil: it cannot be read.
local function pairs_of(req)
  local text = req.query_text
  return (text == nil or text == "") and {} or (uri.parse_query(text))
end

-- Is it an upload in parts that is given up? uploadId stands once, so written, with a value that is the same to all readers of a query, beside
-- nothing that servers read: without one they take DELETE for the object's.
local function gives_up(list)
  local found = 0
  for _, pair in ipairs(list) do
    local name = pair[1]:lower()
    if name == "uploadid" then
      if pair[1] ~= "uploadId" or not pair[2]:find("^[%w._~-]+$") then return false end
      found = found + 1
    elseif not (name == "x-id" and pair[2]:find("^%w*$")) and not signing[name] then
      return false
    end
  end
  return found == 1
end

-- Hosts whose first labels are a bucket's name, as lua/target.lua has them. Any other host has its buckets in the path.
local bucket_hosts = { "%.s3[.-]", "%.s3express%-", "%.storage%.googleapis%.com$", "%.%x+%.r2%.cloudflarestorage%.com$", "%.%x+%.%l+%.r2%.cloudflarestorage%.com$",
  "%.[%w-]+%.digitaloceanspaces%.com$", "%.[%w-]+%.linodeobjects%.com$", "%.[%w-]+%.vultrobjects%.com$", "%.oss%-[%w-]+%.aliyuncs%.com$",
  "%.obs%.[%w-]+%.myhuaweicloud%.com$", "%.[%w-]+%.bcebos%.com$", "%.tos%-[%w-]+%.%l+%.com$", "%.ks3%-[%w-]+%.%l+%.com$", "%.fly%.storage%.tigris%.dev$" }

-- A namespace of Kubernetes, and an interface endpoint of Amazon's, are no buckets.
local function is_bucket(host)
  if host:find("%.s3[%w-]*%.svc%f[.\0]") or host:find("^%l*%.?vpce%-[%w-]+%.s3") then return false end
  for _, pattern in ipairs(bucket_hosts) do
    if host:find(pattern) then return true end
  end
  return false
end

-- Names each reading of the path an object, and no bucket? Of a path /bucket, or of / at a host that is the bucket's, none does, whatever
-- stands in the query: servers make a bucket of PUT /bucket?x-id=PutObject.
local function names_object(req, readings)
  for _, path in ipairs(readings) do
    if not path:find("^/[^/]+/.") and not (path:find("^/.") and is_bucket(req.host)) then return false end
  end
  return true
end

local function refuse(rule, what, name)
  if rule[what] == "allow" then return nil end
  if rule[what] == "ask" then return ask(("this is one of %s (%s)"):format(what, name)) end
  return deny(("%s are not allowed here (%s)"):format(what, name))
end

return {
  kind = "rule", api = 1, name = "s3", title = "Deleting, copying and settings of S3",
  fields = {
    { name = "deletes", type = "enum", values = { "deny", "ask", "allow" }, default = "deny", help = "Objects, versions and buckets" },
    { name = "settings", type = "enum", values = { "deny", "ask", "allow" }, default = "deny", help = "Policies, ACLs and the like; new buckets" },
    { name = "copies", type = "enum", values = { "deny", "ask", "allow" }, default = "deny", help = "From another object" },
  },
  on_request = function(req, ctx)
    local rule, method = ctx.rule, req.method
    for _, name in ipairs(req.headers:names()) do
      name = name:lower():gsub("_", "-")
      if name == "x-amz-copy-source" or name == "x-amz-rename-source" then
        local refused = refuse(rule, "copies", name)
        if refused then return refused end
      elseif name == "x-amz-acl" or name:find("^x%-amz%-grant%-") then
        local refused = refuse(rule, "settings", name)
        if refused then return refused end
      end
    end
    if method == "GET" or method == "HEAD" or method == "OPTIONS" then return nil end
    local list = pairs_of(req)
    if not list then return deny("the query cannot be read") end
    for _, pair in ipairs(list) do
      local name, refused = pair[1]:lower(), nil
      if name == "x-amz-copy-source" or name == "x-amz-rename-source" then
        refused = refuse(rule, "copies", name)
      elseif name == "delete" then
        refused = refuse(rule, "deletes", "?delete")
      elseif not plain[name] and not signing[name] then
        refused = refuse(rule, "settings", "?" .. name)
      end
      if refused then return refused end
    end
    if method ~= "PUT" and (method ~= "DELETE" or rule.deletes == "allow") then return nil end
    local readings = req.readings()
    if not readings then return deny("servers read this path in different ways") end
    local object = names_object(req, readings)
    if method == "DELETE" and not (object and gives_up(list)) then return refuse(rule, "deletes", "DELETE") end
    if method == "PUT" and not object then return refuse(rule, "settings", "a new bucket, or a path that may be one") end
  end,
  examples = {
    { req = { method = "GET", url = "https://s3.eu-west-1.amazonaws.com/b/k" } },
    { req = { method = "GET", url = "https://s3.eu-west-1.amazonaws.com/b?policy" } },
    { req = { method = "PUT", url = "https://s3.eu-west-1.amazonaws.com/b/k" } },
    { req = { method = "PUT", url = "https://b.s3.eu-west-1.amazonaws.com/k" } },
    { req = { method = "PUT", url = "https://s3.eu-west-1.amazonaws.com/b" }, want = true },
    { req = { method = "PUT", url = "https://s3.eu-west-1.amazonaws.com/b/%zz" }, want = "servers read this path in different ways" },
    { req = { method = "PUT", url = "https://b.s3.eu-west-1.amazonaws.com/" }, want = true },
    { req = { method = "PUT", url = "https://s3.eu-west-1.amazonaws.com/b/k?partNumber=1&uploadId=x" } },
    { req = { method = "POST", url = "https://s3.eu-west-1.amazonaws.com/b/k?uploads" } },
    { req = { method = "POST", url = "https://s3.eu-west-1.amazonaws.com/b/k?uploadId=x" } },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k?uploadId=x" } },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k?uploadId=x&x-id=AbortMultipartUpload" } },
    { req = { method = "PUT", url = "https://b.0a1b.r2.cloudflarestorage.com/k?x-id=PutObject" } },
    { req = { method = "PUT", url = "https://b.0a1b.eu.r2.cloudflarestorage.com/k" } },
    { req = { method = "PUT", url = "https://0a1b.r2.cloudflarestorage.com/b?x-id=PutObject" }, want = "settings are not allowed here (a new bucket, or a path that may be one)" },
    { req = { method = "PUT", url = "https://0a1b.eu.r2.cloudflarestorage.com/b" }, want = "settings are not allowed here (a new bucket, or a path that may be one)" },
    { req = { method = "PUT", url = "https://b.nyc3.digitaloceanspaces.com/k?partNumber=1&uploadId=x" } },
    { req = { method = "DELETE", url = "https://b.nyc3.digitaloceanspaces.com/k?uploadId=x" } },
    { req = { method = "PUT", url = "https://nyc3.digitaloceanspaces.com/b?partNumber=1&uploadId=x" }, want = "settings are not allowed here (a new bucket, or a path that may be one)" },
    { req = { method = "PUT", url = "https://b.storage.googleapis.com/k" } },
    { req = { method = "PUT", url = "https://storage.googleapis.com/b" }, want = "settings are not allowed here (a new bucket, or a path that may be one)" },
    { req = { method = "PUT", url = "https://b--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com/k?partNumber=1&uploadId=x" } },
    { req = { method = "PUT", url = "https://s3express-control.us-east-1.amazonaws.com/b--use1-az4--x-s3" }, want = "settings are not allowed here (a new bucket, or a path that may be one)" },
    { req = { method = "PUT", url = "https://minio.s3.svc.cluster.local/b" }, want = "settings are not allowed here (a new bucket, or a path that may be one)" },
    { req = { method = "PUT", url = "https://bucket.vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com/b" }, want = "settings are not allowed here (a new bucket, or a path that may be one)" },
    { req = { method = "PUT", url = "https://b.bucket.vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com/k" } },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k?uploadId=x;y" }, want = "deletes are not allowed here (DELETE)" },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k?uploadId=%20" }, want = "deletes are not allowed here (DELETE)" },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k?uploadId=x&x-id=y;uploadId=" }, want = "deletes are not allowed here (DELETE)" },
    { rule = { deletes = "allow" }, req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/%zz" } },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k?uploadId=" }, want = "deletes are not allowed here (DELETE)" },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k?uploadid=x" }, want = "deletes are not allowed here (DELETE)" },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k?uploadId=x&uploadId=" }, want = "deletes are not allowed here (DELETE)" },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k?uploadId=x&versionId=1" }, want = "deletes are not allowed here (DELETE)" },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b?uploadId=x" }, want = "deletes are not allowed here (DELETE)" },
    { req = { method = "PUT", url = "https://s3.eu-west-1.amazonaws.com/b?x-id=CreateBucket" }, want = "settings are not allowed here (a new bucket, or a path that may be one)" },
    { rule = { copies = "allow" }, req = { method = "PUT", url = "https://s3.eu-west-1.amazonaws.com/b/k?x-amz-copy-source=/b/o&acl" }, want = "settings are not allowed here (?acl)" },
    { rule = { deletes = "allow" }, req = { method = "POST", url = "https://s3.eu-west-1.amazonaws.com/b?delete&policy" }, want = "settings are not allowed here (?policy)" },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k" }, want = "deletes are not allowed here (DELETE)" },
    { req = { method = "POST", url = "https://s3.eu-west-1.amazonaws.com/b?delete" }, want = "deletes are not allowed here (?delete)" },
    { req = { method = "POST", url = "https://s3.eu-west-1.amazonaws.com/b?%64elete" }, want = "deletes are not allowed here (?delete)" },
    { rule = { deletes = "allow" }, req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k" } },
    { rule = { deletes = "ask" }, req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b/k" },
      want = "a person is asked: this is one of deletes (DELETE)" },
    { req = { method = "PUT", url = "https://s3.eu-west-1.amazonaws.com/b?policy" }, want = "settings are not allowed here (?policy)" },
    { req = { method = "PUT", url = "https://s3.eu-west-1.amazonaws.com/b/k?acl&uploadId=x" }, want = "settings are not allowed here (?acl)" },
    { req = { method = "DELETE", url = "https://s3.eu-west-1.amazonaws.com/b?lifecycle" }, want = "settings are not allowed here (?lifecycle)" },
    { req = { method = "PUT", url = "https://s3.eu-west-1.amazonaws.com/b/k", headers = { ["x-amz-acl"] = "public-read" } }, want = "settings are not allowed here (x-amz-acl)" },
    { req = { method = "PUT", url = "https://s3.eu-west-1.amazonaws.com/b/k", headers = { ["x-amz-copy-source"] = "/b/other" } }, want = "copies are not allowed here (x-amz-copy-source)" },
    { rule = { copies = "allow" }, req = { method = "PUT", url = "https://s3.eu-west-1.amazonaws.com/b/k", headers = { ["x-amz-copy-source"] = "/b/other" } } },
  },
}
