--- Redirect URIs (RFC 6749 3.1.2, RFC 8252): which may be registered, and whether one that is asked for is one of them.
-- Nothing is normalised: what a browser would read in another way than we do is refused.
local M = {}

-- They run in the page or on the person's machine, whatever is registered for them; ms-msdt and its like are tools of Windows.
local never = { javascript = true, data = true, file = true, blob = true, about = true, vbscript = true, ws = true, wss = true,
  ftp = true, view = true, ["view-source"] = true, filesystem = true, mailto = true, tel = true, jar = true, feed = true, urn = true,
  livescript = true, mocha = true, mhtml = true, cid = true, mid = true, intent = true, content = true, ["android-app"] = true, chrome = true,
  ["chrome-extension"] = true, ["moz-extension"] = true, edge = true, resource = true, res = true, shell = true, search = true, ["search-ms"] = true,
  ldap = true, ldaps = true, smb = true, ssh = true, sftp = true, telnet = true, sms = true, facetime = true, magnet = true, hcp = true }
local loopback = { localhost = true, ["127.0.0.1"] = true, ["[::1]"] = true }
local URI_MAX = 500

--- "https", "http" or a private-use scheme's, the host as it is written, the port, path and query | nil, why.
local function parts(uri)
  if #uri > URI_MAX then return nil, "it is too long" end
  if uri:find("[^\33-\126]") or uri:find("[\\\"<>^`{|}#]") or uri:gsub("%%%x%x", ""):find("%%") then
    return nil, "it has a fragment, a backslash, or bytes that no URI has"
  end
  local scheme, rest = uri:match("^(%a[%w+.-]*):(.+)$")
  if not scheme then return nil, "it has no scheme" end
  if scheme:lower() ~= scheme then return nil, "its scheme is written in small letters" end
  if never[scheme] or scheme:find("^ms%-") then return nil, scheme .. ": is no address to return to" end
  if scheme ~= "https" and scheme ~= "http" then return { scheme = scheme, private = true } end
  local authority, tail = rest:match("^//([^/?]*)(.*)$")
  if not authority or authority:find("@", 1, true) then return nil, "its host is missing, or a user stands before it" end
  local host, port = authority:match("^(%[?[^%]]*%]?):(%d+)$")
  if not host then host, port = authority, "" end
  if port ~= "" and (not port:find("^[1-9]%d?%d?%d?%d?$") or tonumber(port) > 65535) then return nil, "its port is none" end
  if (host:find(":", 1, true) ~= nil) ~= (host:sub(1, 1) == "[") then return nil, "its host is none" end
  local canonical = require("http").canonical_host((host:gsub("^%[(.*)%]$", "%1")))
  if not canonical or canonical ~= host and "[" .. canonical .. "]" ~= host then
    return nil, "its host is not written in the one usual way: small letters, no dot at the end"
  end
  for segment in tail:match("^[^?]*"):gmatch("[^/]+") do
    local s = segment:gsub("%%2[eE]", ".")
    if s == "." or s == ".." then return nil, "its path has '.' or '..' in it" end
  end
  if scheme == "http" and not loopback[host] then return nil, "http is for this machine alone (localhost, 127.0.0.1, [::1]); else https" end
  return { scheme = scheme, host = host, port = port, tail = tail, loopback = loopback[host] and scheme == "http" or nil }
end

--- May this stand in a registration? { scheme, host, port, tail, loopback, private } | nil, why.
function M.check(uri)
  if type(uri) ~= "string" then return nil, "it is no text" end
  return parts(uri)
end

--- Is the URI that was asked for one of the registered? Letter by letter; at http://localhost, 127.0.0.1 and [::1] the port
-- may be another (RFC 8252 7.3), nothing else. -> its parts | nil
function M.match(uri, registered)
  local p = type(uri) == "string" and parts(uri)
  if not p then return nil end
  for _, r in ipairs(registered) do
    if r == uri then return p end
    local q = p.loopback and type(r) == "string" and parts(r)
    if q and q.loopback and q.host == p.host and q.tail == p.tail then return p end
  end
end

--- What a person is shown of where the answer goes, and what form-action has to allow: host and origin; a private scheme whole.
function M.shown(p, uri)
  if p.private then return uri, p.scheme .. ":" end
  local at = p.host .. (p.port ~= "" and ":" .. p.port or "")
  return at, p.scheme .. "://" .. at
end

return M
