-- lua/target.lua: what a field that names a second target may mean. Forms of the values: the S3 API Reference (CopyObject,
-- UploadPartCopy, RenameObject), Azure's Copy Blob and Path - Create, RFC 4918, OpenStack's Object Storage API.
local target = require "target"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

-- "host path, host path …" in order; "?" for a path that cannot be read | nil
local function read(kind, value, host, path)
  local list = target.read(kind, value, { host = host, path = path or "/x" })
  if not list then return nil end
  local out = {}
  for i, t in ipairs(list) do out[i] = t.host .. " " .. (t.path or "?") end
  return table.concat(out, ", ")
end

return {
  ["a bucket in the path stays there"] = function()
    for _, host in ipairs { "s3.eu-west-1.amazonaws.com", "minio.test", "storage.googleapis.com", "bucket.vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com",
      "0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com", "minio.s3.svc.cluster.local", "minio.s3.svc" } do
      is(read("bucket", "b/k%2Fl", host), host .. " /b/k%2Fl")
      is(read("bucket", "/b/k?versionId=1", host), host .. " /b/k?versionId=1")
      is(target.names_host("bucket", host), false)
    end
    is(read("bucket", "b/k", "p.supabase.co", "/storage/v1/s3/a/x"), "p.supabase.co /storage/v1/s3/b/k")
  end,
  ["a bucket in the host is another host"] = function()
    for bucket, rest in pairs { ["pub"] = "s3.eu-west-1.amazonaws.com", ["a.b"] = "s3.amazonaws.com", ["s3-a"] = "s3-eu-west-1.amazonaws.com",
      ["pub1"] = "s3.dualstack.us-east-1.amazonaws.com", ["pub2"] = "storage.googleapis.com", ["pub3"] = "nyc3.digitaloceanspaces.com",
      ["pub4"] = "0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com", ["pub5"] = "0123456789abcdef.eu.r2.cloudflarestorage.com",
      ["pub6"] = "bucket.vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com", ["pub7"] = "s3.us-west-004.backblazeb2.com", ["pub8"] = "s3.test",
      ["pub9"] = "oss-cn-hangzhou.aliyuncs.com", ["p--usw2-az1--x-s3"] = "s3express-usw2-az1.us-west-2.amazonaws.com" } do
      local host = bucket .. "." .. rest
      is(target.names_host("bucket", host), true)
      is(read("bucket", "/other/k", host), "other." .. rest .. " /k")
      is(read("bucket", "other/k?versionId=1", host), "other." .. rest .. " /k?versionId=1")
      is(read("bucket", "ot%68er%2Fk%2Fl", host), "other." .. rest .. " /k/l")
      is(read("bucket", bucket, host), host .. " /")
    end
    is(read("bucket", "/b/../k%zz", "a.s3.test"), "b.s3.test /../k%zz")
    for _, value in ipairs { "//b/k", "https://b/k", "B/k", "b%zz/k", "", "b\\k", "b%00/k", "-b/k" } do is(read("bucket", value, "a.s3.test"), nil) end
  end,
  ["an access point has a host of its own; of another ARN nobody knows"] = function()
    local host = "a.s3.us-east-1.amazonaws.com"
    is(read("bucket", "arn:aws:s3:eu-west-1:123456789012:accesspoint/p/object/k", host), "p-123456789012.s3-accesspoint.eu-west-1.amazonaws.com /k")
    is(read("bucket", "arn%3Aaws%3As3%3Aeu-west-1%3A123456789012%3Aaccesspoint%2Fp%2Fobject%2Fk", host), "p-123456789012.s3-accesspoint.eu-west-1.amazonaws.com /k")
    is(read("bucket", "arn:aws:s3-outposts:eu-west-1:123456789012:outpost/o/object/k", host), "arn.s3.us-east-1.amazonaws.com ?")
  end,
  ["a key is in the request's own bucket, with its name before it or not"] = function()
    is(read("key", "k", "a.s3.test"), "a.s3.test /k")
    is(read("key", "/a/k", "a.s3.test"), "a.s3.test /a/k, a.s3.test /k")
    is(read("key", "k", "minio.test", "/a/x"), "minio.test /a/k")
    is(read("key", "a/k", "minio.test", "/a/x"), "minio.test /a/a/k, minio.test /a/k")
    is(read("key", "k", "minio.test", "/"), nil)
  end,
  ["Swift's places are below the account"] = function()
    for _, before in ipairs { "/v1/AUTH_me", "/v1.0/me", "/swift/v1", "/swift/v1/AUTH_me" } do
      is(read("container", "/c/o", "swift.test", before .. "/x/y"), "swift.test " .. before .. "/c/o")
      is(read("prefix", "c/o", "swift.test", before .. "/x/y"), "swift.test " .. before .. "/c/o_")
    end
    is(read("account", "me", "swift.test", "/v1/me/x/y"), "swift.test /v1/me/x/y")
    is(read("account", "you", "swift.test", "/v1/me/x/y"), "swift.test /v1/you")
    for _, value in ipairs { "me/x", "", "..", "me%2fx", "a b" } do is(read("account", value, "swift.test", "/v1/me/x/y"), value == ".." and "swift.test /v1/.." or nil) end
    is(read("account", "me", "swift.test", "/x/y"), nil)
  end,
  ["Destination: a URL, a path, a document beside this one, a container"] = function()
    is(read("destination", "https://DAV.test:443/a%20b?x", "dav.test"), "dav.test /a%20b?x")
    is(read("destination", "/a", "dav.test", "/b/c"), "dav.test /a")
    is(read("destination", "d?rev=1", "couch.test", "/db/c"), "couch.test /db/d?rev=1")
    is(read("destination", "c/o", "swift.test", "/v1/AUTH_me/x/y"), "swift.test /v1/AUTH_me/c/o")
    is(read("destination", "/c/o", "swift.test", "/v1/AUTH_me/x/y"), "swift.test /v1/AUTH_me/c/o")
    is(read("destination", "/c/o", "any.test", "/v1/me/x/y"), "any.test /c/o, any.test /v1/me/c/o")     -- either may be meant
    for _, value in ipairs { "//dav.test/a", "ftp://dav.test/a", "https:/dav.test/a", "https://u@dav.test/a", "https://dav.test/a#b", "https://dav.test/a\\b", "https://" } do
      is(read("destination", value, "dav.test"), nil)
    end
  end,
  ["Azure's and Tencent's URLs"] = function()
    is(read("url", "https://other.blob.core.windows.net/c/b?sig=x", "acct.blob.core.windows.net"), "other.blob.core.windows.net /c/b?sig=x")
    is(read("url", "/fs/p", "acct.dfs.core.windows.net"), "acct.dfs.core.windows.net /fs/p")
    is(read("url", "b-125.cos.ap-guangzhou.myqcloud.com/k", "a-125.cos.ap-guangzhou.myqcloud.com"), "b-125.cos.ap-guangzhou.myqcloud.com /k")
    is(read("url", "c/b", "acct.blob.core.windows.net"), nil)
  end,
}
