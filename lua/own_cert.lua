--- The operator's own certificate of a kind of listener: read when the worker starts, and again when a file changes.
local host, tls = require "host", require "tls"
local M = {}

local kept = {}     -- by kind of listener: { cert = path, key = path, seen = text }

-- What tells that a file is another one. Whoever renews a certificate may change a link instead of the file.
local function stamp(path)
  local st = host.stat(path, true)
  return st and ("%d %d %d"):format(st.mtime, st.size, st.inode) or "absent"
end

--- own_cert.read(cert, key) -> identity (module tls) | nil, why. Two paths of PEM files: the chain, the server's own
-- certificate first, and its key.
function M.read(cert, key)
  local parts = {}
  for i, path in ipairs { cert, key } do
    local text, empty = host.read_secret("file", path, { multiline = true })
    if empty then return nil, ("%s: %s"):format(path, text and "it is empty" or empty) end    -- nil, code
    parts[i] = text
  end
  local identity, field, code = tls.identity(parts[1], parts[2], nil, false)
  if not identity then return nil, ("%s: %s"):format(field == "client_key" and key or cert, (code:gsub("_", " "))) end
  return identity
end

--- own_cert.use(kind, cert, key): listeners of that kind show it from now on; where it cannot be read, which the log
-- says, they go on with what they had.
function M.use(kind, cert, key)
  local seen = stamp(cert) .. " " .. stamp(key)
  local had = kept[kind]
  if had and had.cert == cert and had.key == key and had.seen == seen then return end
  kept[kind] = { cert = cert, key = key, seen = seen }
  local identity, why = M.read(cert, key)
  if not identity then return host.log(("ev=certificate kind=%s err=%q"):format(kind, why)) end
  tls.serve(kind, identity)
  if had then host.log(("ev=certificate kind=%s again=%s"):format(kind, cert)) end
end

--- Called each tick.
function M.look()
  for kind, own in pairs(kept) do M.use(kind, own.cert, own.key) end
end

return M
