--- A second target in a request: fields that name another place than the request line does, read as their servers
-- read them, so that it can be judged as the first one was. Which fields there are, fields.lua says; a type's
-- `targets` adds its own. Bodies that name places (a list of keys to delete, a manifest) are not looked into.
--
-- target.read(kind, value, req) -> { { host, path, scheme | nil, port | nil }, … }: every one of them may be meant; a path
-- of false cannot be read. nil: nobody knows what it names.
-- req = { host, path }: the request that has the field.
local uri = require "uri"
local M = {}

-- ---- buckets ---------------------------------------------------------------------------------------

-- Hosts of which the first labels are a bucket's name, and what is behind it. Amazon's own, and those that call
-- themselves so; others by name. Any other host has its buckets in the path.
local bucket_hosts = {
  "^(.+)%.(s3%..+)$", "^(.+)%.(s3%-[%w-]*%..+)$", "^(.+)%.(s3express%-[%w-]*%..+)$",
  "^(.+)%.(storage%.googleapis%.com)$",
  "^(.+)%.(%x+%.r2%.cloudflarestorage%.com)$", "^(.+)%.(%x+%.%l+%.r2%.cloudflarestorage%.com)$",
  "^(.+)%.([%w-]+%.digitaloceanspaces%.com)$", "^(.+)%.([%w-]+%.linodeobjects%.com)$", "^(.+)%.([%w-]+%.vultrobjects%.com)$",
  "^(.+)%.(oss%-[%w-]+%.aliyuncs%.com)$", "^(.+)%.(obs%.[%w-]+%.myhuaweicloud%.com)$", "^(.+)%.([%w-]+%.bcebos%.com)$",
  "^(.+)%.(tos%-[%w-]+%.%l+%.com)$", "^(.+)%.(ks3%-[%w-]+%.%l+%.com)$", "^(.+)%.(fly%.storage%.tigris%.dev)$",
}

-- bucket, the host behind it | nil: they are in the path
local function bucket_of(host)
  local bucket, rest
  for _, pattern in ipairs(bucket_hosts) do
    local b, r = host:match(pattern)
    local service = r and r:find("^s3[%w-]*%.svc%f[.\0]")     -- a namespace of Kubernetes by that name
    if b and not service and (not rest or #r < #rest) then bucket, rest = b, r end
  end
  -- bucket.vpce-1a2b-5e6f.s3.us-east-1.vpce.amazonaws.com is an interface endpoint, with one more label for a bucket
  local before, endpoint = (bucket or ""):match("^(.-)%.?(%l*%.?vpce%-[%w-]+)$")
  if endpoint then
    if before == "" then return nil end
    return before, endpoint .. "." .. rest
  end
  return bucket, rest
end

-- Where an S3 API lives below a path of its host.
local mounts = { "/storage/v1/s3" }     -- Supabase

local function mount_of(path)
  for _, mount in ipairs(mounts) do
    if path:sub(1, #mount + 1) == mount .. "/" then return mount end
  end
  return ""
end

-- The text as a server reads it before or after it looks for slashes: S3 decodes it whole.
local function decoded(text)
  local out = { text }
  for i = 1, 2 do
    local plain = uri.decode(out[i])
    if not plain or plain == out[i] then break end
    out[i + 1] = plain
  end
  return out
end

-- arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/object/KEY has a host of its own; of others nobody knows which bucket it is.
local function arn_place(text, rest)
  local region, account, name, key = text:match("^arn:[%w-]+:s3:([%w-]+):(%d+):accesspoint[/:]([%w-]+)/object/(.*)$")
  local domain = rest:match("%.(amazonaws%..+)$")
  if not region or not domain then return { host = "arn." .. rest, path = false } end
  return { host = ("%s-%s.s3-accesspoint.%s.%s"):format(name, account, region, domain), path = "/" .. key }
end

-- "bucket/key" or "/bucket/key", percent-encoded, "?versionId=…" behind it.
local function read_bucket(value, req)
  local own, rest = bucket_of(req.host)
  if not own then return { { host = req.host, path = mount_of(req.path) .. "/" .. value:gsub("^/", "") } } end
  local out = {}
  for _, text in ipairs(decoded(value)) do
    local bucket, key = text:match("^/?([^/?#]*)(.*)$")
    if bucket:find("^arn:") then
      out[#out + 1] = arn_place(text:gsub("^/", ""), rest)
    elseif not bucket:find("%", 1, true) then           -- else it is read when it is decoded
      if not bucket:find("^[%l%d][%l%d._-]*$") then return nil end
      out[#out + 1] = { host = bucket .. "." .. rest, path = key:find("^/") and key or "/" .. key }
    end
  end
  return out[1] and out
end

-- A key in the bucket of the request; with the bucket's name before it, too, for one may try.
local function read_key(value, req)
  local own = bucket_of(req.host)
  local bucket = own or req.path:match("^/([^/]+)")
  if not bucket then return nil end
  local before = own and "/" or "/" .. bucket .. "/"
  local key = value:gsub("^/", "")
  local out = { { host = req.host, path = before .. key } }
  if key:sub(1, #bucket + 1) == bucket .. "/" then out[2] = { host = req.host, path = before .. key:sub(#bucket + 2) } end
  return out
end

-- ---- Swift -----------------------------------------------------------------------------------------

-- What stands before a container in the path: "/v1/AUTH_me"; Ceph's "/swift/v1", with an account or without. The second
-- answer: it can be nothing else.
local function account_of(path)
  local ceph = path:match("^(/swift/v1/AUTH_[^/]+)/") or path:match("^(/swift/v1)/")
  if ceph then return ceph, true end
  local account = path:match("^(/v1[%d.]*/[^/]+)/")
  return account, account ~= nil and account:find("/AUTH_", 1, true) ~= nil
end

local function read_container(value, req)
  local before = account_of(req.path)
  return { { host = req.host, path = (before or "") .. "/" .. value:gsub("^/", "") } }
end

-- All objects of a container whose names begin so: what stands behind it may go on in any way.
local function read_prefix(value, req)
  local list = read_container(value, req)
  list[1].path = list[1].path .. "_"
  return list
end

-- The account that the field beside it is in: all of it must be covered, unless it is the request's own.
local function read_account(value, req)
  local before, own = req.path:match("^(.*/v1[%d.]*/)([^/]+)")
  if not before or not value:find("^[%w_.:-]+$") then return nil end
  if value == own then return { { host = req.host, path = req.path } } end
  return { { host = req.host, path = before .. value } }
end

-- ---- URLs ------------------------------------------------------------------------------------------

local function read_url(value, req)
  if value:find("^/") then
    if value:find("^//") then return nil end     -- a reference to another host, or a path: servers differ
    return { { host = req.host, path = value } }
  end
  local url = not value:find("[%c%s\\#]") and require("http").parse_url(value)
  if url then
    local path = url.path .. (url.query and "?" .. url.query or "")   -- not every server cuts it off
    return { { host = url.host, path = path, scheme = url.scheme, port = url.port } }
  end
  -- Tencent: bucket-1250000000.cos.ap-guangzhou.myqcloud.com/key
  url = value:find("^[%w.-]+%.[%w-]+/[^%c%s\\#]*$") and require("http").parse_url("https://" .. value)
  return url and { { host = url.host, path = url.path } } or nil
end

-- WebDAV: a URL, or a path (RFC 4918 8.3). CouchDB: a document of this database. Wasabi: a key in this bucket. Swift:
-- container/object. What holds a URL somewhere else than at its beginning is one to some (SabreDAV looks for "://").
local function read_destination(value, req)
  local swift, surely = account_of(req.path)
  local out = {}
  local plain = uri.decode(value) or value
  if plain:find("[<>\"'\\]") or not value:find("^%a[%w+.-]*:") and plain:find(":/", 1, true) then return nil end
  if value:find("^%a[%w+.-]*:") or value:find("^/") and not surely then
    out = read_url(value, req)
    if not out or not value:find("^/") then return out end
  elseif not surely then
    out[1] = { host = req.host, path = (req.path:match("^.*/") or "") .. value }
    if req.host:find("wasabisys.com", 1, true) then
      out[2] = { host = req.host, path = (bucket_of(req.host) and "/" or req.path:match("^/[^/]*/") or "/") .. value }
    end
  end
  if swift then out[#out + 1] = { host = req.host, path = swift .. "/" .. value:gsub("^/", "") } end
  return out
end

-- Vault: what stands before the path of every mount (/v1/secret/x in the namespace a/b is /v1/a/b/secret/x).
local function read_namespace(value, req)
  local version, rest = req.path:match("^(/v%d+)(/.*)$")
  local name = value:match("^/?(.-)/?$")
  if not version or not name:find("^[%w_./-]*$") then return nil end
  return { { host = req.host, path = version .. (name ~= "" and "/" .. name or "") .. rest } }
end

M.kinds = {
  bucket = read_bucket, key = read_key, container = read_container, account = read_account,
  destination = read_destination, url = read_url, prefix = read_prefix, namespace = read_namespace,
}

--- Google Storage's JSON API has the second place in the path: /storage/v1/b/FROM/o/KEY/rewriteTo/b/TO/o/KEY (copyTo, moveTo).
-- Where it goes, by any reading of the path; nil: this host has no such paths.
function M.in_path(host, readings)
  if not host:find("googleapis%.com$") then return nil end
  local out = {}
  for _, reading in ipairs(readings() or {}) do
    local at = reading:find("/b/[^/]+/o/.", 2)
    local rest = at and reading:match("^[^/]+/o/(.+)$", at + 3)
    local to = rest and rest:match("^.+/%a+[Tt]o/b/(.+)$")
    if to then out[#out + 1] = { host = host, path = reading:sub(1, at + 2) .. to } end
  end
  return out
end

--- Names of the query that name a place: WordPress takes its route from there before it looks at the path, WebHDFS renames
-- and joins.
M.in_query = { "rest_route", "destination", "sources" }

--- The places that these name in a request with such a query.
function M.of_query(req)
  local out, hdfs = {}, req.path:match("^(.-/webhdfs/v%d+)/")
  local site = req.path:match("^(.*)/wp%-json") or req.path:match("^(.*)/")
  for _, pair in ipairs(uri.parse_query(req.query) or { { "rest_route", false } }) do
    local name, value = pair[1]:lower(), pair[2]
    if require("request").form_names(name:gsub(" ", "+"), { "rest_route" }) then
      out[#out + 1] = { host = req.host, path = value and site .. "/wp-json/" .. value:gsub("^/", "") }
    elseif hdfs and (name == "destination" or name == "sources") then
      for one in value:gmatch("[^,]+") do out[#out + 1] = { host = req.host, path = hdfs .. "/" .. one:gsub("^/", "") } end
    end
  end
  return out
end

--- Does a field of this kind name a host that the rule on hosts decides about, even where no path does? A bucket in the
-- host is one; so is where a WebDAV server writes. (A URL that Azure reads with a key of the URL's own is not.)
function M.names_host(kind, host)
  return kind == "destination" or kind == "bucket" and bucket_of(host) ~= nil
end

function M.read(kind, value, req)
  local list = M.kinds[kind](value, req)
  for _, t in ipairs(list or {}) do
    local host = require("http").canonical_host(t.host)
    if not host then return nil end
    t.host = host
  end
  return list
end

return M
