--- Hosts, field names and URLs, spelled as proxy.c spells them (section "bind: http, addr").
local core = require "http.core"
local M = { canonical_host = core.canonical_host, authority = core.authority, field_name_ok = core.field_name_ok,
  field_value_ok = core.field_value_ok }

--- http.parse_url(text) -> { scheme =, host =, port =, path =, query = } | nil, why
-- An absolute URL of http or https. host is canonical, port the scheme's where none is named, query nil where there is none.
function M.parse_url(text)
  local scheme, authority, rest = text:match("^([Hh][Tt][Tt][Pp][Ss]?)://([^/?]+)(.*)$")
  if not scheme then return nil, "expected http:// or https:// and a host" end
  local host, port = core.authority(authority)
  if not host then return nil, "malformed host or port (a user name has no place there)" end
  local canonical, why = core.canonical_host(host)
  if not canonical then return nil, why end
  -- RFC 3986 allows fewer; clients send | { } " ^ raw, and servers take them. Not "#", where some servers end the path.
  if rest:find("[^!\"$-~]") then return nil, "the path holds bytes that no URL may" end
  local path, mark, query = rest:match("^([^?]*)(%??)(.*)$")
  scheme = scheme:lower()
  return { scheme = scheme, host = canonical, port = port or scheme == "https" and 443 or 80, path = path ~= "" and path or "/",
    query = mark ~= "" and query or nil }
end

return M
