--- The control socket as commands see it: where it is.
local M = {}

local SERVICE = "/run/sallyport/control"
local AT_FDCWD, FOLDER = -100, 0x200000 | 0x10000 | 0x80000     -- O_PATH, O_DIRECTORY, O_CLOEXEC

M.MAX = 107             -- bytes of a Unix socket's path: sun_path, less its NUL (unix(7))

--- Where it may be, the likeliest first: what is named, the service's own folder (systemd.exec(5), RuntimeDirectory=), the
-- data directory. For `serve`, the first is where it makes it.
function M.paths(ctx)
  local out = {}
  local named, service = ctx.host.getenv("SALLYPORT_CONTROL"), ctx.host.getenv("RUNTIME_DIRECTORY")
  if named and named ~= "" then out[1] = named end
  if service and service:find("^/[^:]*$") then out[#out + 1] = service .. "/control" end
  out[#out + 1] = ctx.home .. "/control"
  out[#out + 1] = SERVICE
  return out
end

--- A socket's path as an address takes it: a longer one by a descriptor of its folder, which has to stay open for as long as the path is used.
-- -> it, the descriptor | nil: it is the path itself; nil, why
function M.address(path)
  if #path <= M.MAX then return path end
  local dir, name = path:match("^(.*/)([^/]+)$")
  local core = require "jail"
  local fd, why = core.call("openat", AT_FDCWD, dir or ".", FOLDER, 0)
  if not fd then return nil, why end
  local at = ("/proc/self/fd/%d/%s"):format(fd, name or path)
  if #at <= M.MAX then return at, fd end
  core.call("close", fd)
  return nil, "its name is longer than that of a socket may be"
end

return M
