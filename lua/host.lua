--- The machine, as workers and commands see it: host.core (proxy.c), and for commands what cli.machine makes of system calls.
local M = require "host.core"
if M.adopt then       -- workers do not have it
  setmetatable(M, { __index = function(_, name) return require("cli.machine")[name] end })
end

local UID, MTIME = 21, 113      -- where stx_uid and stx_mtime begin in struct statx (statx(2))
local TYPES = { [0x8000] = "file", [0x4000] = "dir", [0xa000] = "link", [0xc000] = "socket" }

--- stat(path [, follow]) -> { mode =, uid =, gid =, size =, inode =, mtime =, type = } | nil, "absent" | why
-- Without `follow` a symbolic link is not followed. mtime: ns. type: one of TYPES, or "other".
function M.stat(path, follow)
  local st, why = M.statx(path, follow)
  if not st then return nil, why end
  local uid, gid, mode, inode, size = ("=I4I4I2xxi8i8"):unpack(st, UID)
  local seconds, ns = ("=i8I4"):unpack(st, MTIME)
  return { uid = uid, gid = gid, mode = mode & 4095, type = TYPES[mode & 0xf000] or "other", inode = inode, size = size,
    mtime = seconds * 1000000000 + ns }
end

--- realpath(path) -> path | nil, "absent" | why. Absolute, without symbolic links, `.` and `..`.
function M.realpath(path)
  local st, real = M.statx(path, true)
  if not st then return nil, real end
  if real == "" then return nil, "absent" end       -- a pipe, or a file that has no name any more
  return real
end

--- sha256_hex(text) -> 64 hex digits. For texts that are no secrets: source of policies, tokens' stored hashes.
function M.sha256_hex(text)
  local secrets = require "secret.core"
  return secrets.hex(secrets.sha256(text))
end

--- random_token(prefix) -> token, hash: the prefix and 256 random bits in base64url; the token's SHA-256 in hex.
function M.random_token(prefix)
  local token = prefix .. require("secret.core").base64url(M.random(32))
  return token, M.sha256_hex(token)
end

local HEADERS_MAX, NAME_MAX = 32, 127

-- { { name, secret } … } of a secret JSON object of texts: headers, in their order. nil: it is none.
local function headers_of(document)
  local core, http = require "secret.core", require "http.core"
  local names, kinds, out = core.names(document) or {}, {}, {}
  if #names == 0 or #names > HEADERS_MAX then return nil end
  for _, name in ipairs(names) do
    if #name > NAME_MAX or not http.field_name_ok(name) then return nil end
    kinds[name] = "type"
  end
  local types = core.expect(document, kinds)
  for name in pairs(kinds) do kinds[name] = "sealed" end
  local values = core.expect(document, kinds)
  for i, name in ipairs(names) do
    if not values or types[name] ~= "string" or not http.field_value_ok(values[name]) then return nil end
    out[i] = { name, values[name] }
  end
  return out
end

--- command({ program, argument…, timeout=ms [, whole=bool, multiline=bool] }, deadline)
-- -> { { name, secret } … } | nil, code [, exit status]
-- -> secret, empty, where `whole`; nil, "control" too
-- Runs a program of the helpers' folder: host.run in proxy.c. It prints a JSON object, the headers' names and values, or
-- with `whole` one value. Codes: those of host.run, and "command_malformed". Yields.
function M.command(spec, deadline)
  for _, text in ipairs(spec) do
    if type(text) ~= "string" or text:find("\0", 1, true) then error("an argument is a text without a NUL") end
  end
  local text, second, status = M.run(table.concat(spec, "\0") .. "\0", deadline, spec.timeout, not spec.whole or spec.multiline)
  if spec.whole or not text and second ~= "control" then return text, second, status end
  local headers = text and headers_of(text)
  return headers, not headers and "command_malformed" or nil
end

return M
