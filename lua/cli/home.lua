--- The data directory: making one, and the files for clients in the readable folder beside it.
local db = require "cli.db"
local report = require "cli.report"
local M = {}

local MAKE_MS = 20000        -- another command makes a data directory in less than one second

--- How the reader of an advice calls this program: with its path, unless the shell finds it.
function M.command(ctx)
  local arg0 = ctx.host.arg0 or "sallyport"
  local dir = arg0:match("^(.*)/[^/]*$")
  for d in (ctx.host.getenv("PATH") or ""):gmatch("[^:]+") do
    if d == dir then return "sallyport" end
  end
  return require("env").quote(arg0)
end

--- Whether the shell finds a program of this name.
function M.has(ctx, name)
  for dir in (ctx.host.getenv("PATH") or ""):gmatch("[^:]+") do
    local file = ctx.host.realpath(dir .. "/" .. name)
    local is = file and ctx.host.stat(file)
    if is and is.type == "file" and is.mode & tonumber("111", 8) ~= 0 then return true end
  end
  return false
end

-- ---- the clients' folder --------------------------------------------------------------------------

-- 0700 hides the data directory from agents' users, so what they need lies next to it: where nothing can be made there
-- (a mount point, a parent of root's, a read-only root), in it.
local function places(ctx) return { ctx.home .. "-public", ctx.home .. "/public" } end

-- Whoever may write there may swap the roots that every client trusts.
local function ours(host, dir)
  local is = host.stat(dir)
  return is and is.type == "dir" and is.uid == host.uid() and is.mode & 18 == 0, is
end

--- The folder for clients: what the running proxy was told, the setting `public`, or the place that is there already;
-- nil where there is none yet.
function M.public(ctx)
  local running = M.running(ctx)
  local kept = ctx.opened and db.peek("meta", "set/public", "the setting public")
  local set = running and running.flags and running.flags.public or kept and kept.value
  if set then return set end
  for _, dir in ipairs(places(ctx)) do
    if ours(ctx.host, dir) then return dir end
  end
end

--- The first folder on the way to this path that other users cannot enter; nil: they can read what lies there.
function M.shut(ctx, path)
  local at = ""
  for part in path:match("^(.*)/"):gmatch("[^/]+") do
    at = at .. "/" .. part
    local s = ctx.host.stat(at)
    if s and s.type == "dir" and s.mode & 1 == 0 then return at end
  end
end

-- Makes a folder for clients or takes the one that is there: true, made | nil, why, hint
local function make_folder(ctx, dir)
  local host = ctx.host
  local ok, why = host.mkdir(dir, tonumber("755", 8))
  if ok then return true, true end
  if why ~= "exists" then
    return nil, ("cannot make %s: %s"):format(dir, why == "absent" and "the folder above it is absent" or why)
  end
  if ours(host, dir) then return true, false end
  return nil, dir .. " is not a folder of ours alone to write",
    ("move it away, or: chown %d %s && chmod 755 %s"):format(host.uid(), dir, dir)
end

--- Whether the folder may be the clients': true, or nil, why.
function M.check_public(ctx, dir)
  local host = ctx.host
  local above, name = dir:match("^(.*)/([^/]+)/*$")
  local real = host.realpath(dir) or above and (host.realpath(above == "" and "/" or above) or above) .. "/" .. name or dir
  local data = host.realpath(ctx.home) or ctx.home
  if (real .. "/"):sub(1, #data + 1) == data .. "/" and real ~= data .. "/public" then
    return nil, "the clients' folder is no part of the data directory, but for its `public`"
  end
  return true
end

-- The folder, made where it is missing: path, made.
local function folder(ctx, named)
  local set, why, hint = named or M.public(ctx), nil, nil
  for _, dir in ipairs(set and { set } or places(ctx)) do
    local ok, made, more = make_folder(ctx, dir)
    if ok then return dir, made end
    why, hint = made, more
  end
  report.fail(why, hint or "sallyport set public DIR (init --public DIR, where there is no store yet) names another place")
end

--- Brings the clients' files up to date: where the folder is missing or a file differs (a new CA, new system roots), it is
-- written again. Answers the two paths. `named`: this folder, whatever the settings say.
function M.client_files(ctx, named)
  local host = ctx.host
  local ca = db.peek("meta", "ca", "the certificate authority")
  if not ca then report.fail("the data directory has no certificate authority", "sallyport init makes it") end
  local dir = folder(ctx, named)
  local paths = { ca = dir .. "/ca.pem", bundle = dir .. "/bundle.pem" }
  local roots_file = require("records").system_roots()
  local roots = roots_file and host.read_file(roots_file, 8 << 20)
  if not roots then
    ctx.note("note: no system roots found, so clients get our CA alone; install ca-certificates")
  end
  if roots and roots:sub(-1) ~= "\n" then roots = roots .. "\n" end
  for _, item in ipairs { { paths.ca, ca.pem }, { paths.bundle, (roots or "") .. ca.pem } } do
    local path, text = item[1], item[2]
    local there = host.read_file(path, 8 << 20)
    if there ~= text then
      local ok, why = require("cli.files").write(host, path, text, tonumber("644", 8))
      -- With our CA in it a bundle is of use, though it lacks the system's newest roots.
      if not ok and there and there:sub(-#ca.pem) == ca.pem then
        ctx.note(("note: cannot write %s (%s): it keeps the system roots of before"):format(path, why))
      elseif not ok then
        report.fail(("cannot write %s: %s"):format(path, why), "sallyport set public DIR names another folder for clients")
      end
    end
  end
  return paths
end

-- ---- making one ----------------------------------------------------------------------------------

local refuse_foreign
function refuse_foreign(ctx)
  local host = ctx.host
  local s, why = host.stat(ctx.home)
  if not s then
    if why ~= "absent" then report.fail(("cannot use %s: %s"):format(ctx.home, why)) end
    local ok
    ok, why = host.mkdir(ctx.home, tonumber("700", 8))
    if ok then return true end
    if why == "exists" then return refuse_foreign(ctx) end      -- another command made it meanwhile
    local above = ctx.home:match("^(.+)/[^/]*$") or "/"
    report.fail(("cannot make %s: %s"):format(ctx.home, why == "absent" and ("there is no folder %s"):format(above) or why),
      why == "absent" and ("mkdir -p %s, or name another place with --home"):format(above)
      or ("as root: install -d -m 700 -o %d %s; or name another place with --home"):format(host.uid(), ctx.home))
  end
  if s.type == "link" then report.fail(ctx.home .. " is a link that leads nowhere", "--home DIR names another place") end
  if s.type ~= "dir" then report.fail(ctx.home .. " is not a directory", "--home DIR names another place") end
  if s.uid ~= host.uid() then report.fail(ctx.home .. " belongs to another user", "run this command as that user") end
  if s.mode & tonumber("077", 8) ~= 0 then db.open_to_others(ctx.home, s.mode) end
end

-- What lies in a folder and in its folders: path -> true, and the paths with the inner ones first.
local function inside(dir)
  local files, list, is = require "cli.files", {}, {}
  local function walk(at, depth)
    for _, name in ipairs(files.names(at)) do
      local path = at .. "/" .. name
      if depth > 0 then walk(path, depth - 1) end
      list[#list + 1], is[path] = path, true
    end
  end
  walk(dir, 1)
  return is, list
end

-- The records of an empty store: what is missing of them.
local function first_records(public)
  local time, missing = require "time", {}
  if not db.peek("meta", "ca", "the certificate authority") then
    local key, der = assert(require("host").ca_make())
    local base64 = require("secret").base64(der)
    local pem = "-----BEGIN CERTIFICATE-----\n" .. base64:gsub(("."):rep(64), "%0\n"):gsub("\n$", "")
      .. "\n-----END CERTIFICATE-----\n"
    local ca = require("cli.certificates").list(pem)[1]
    missing[#missing + 1] = { op = "put", db = "meta", key = "ca", version = 0, secrets = { key = key },
      plain = { pem = pem, der = base64, not_after = ca.not_after, sha256 = ca.sha256, created = time.wall() } }
    if public then
      missing[#missing + 1] = { op = "put", db = "meta", key = "set/public", plain = { name = "public", value = public } }
    end
  end
  if not db.peek("bundle", "default", "the bundle 'default'") then
    missing[#missing + 1] = { op = "put", db = "bundle", key = "default", version = 0,
      plain = { name = "default", created = time.wall() } }
  end
  return missing
end

--- As client_files, where a command has done its work without them: a note, and nil, where they cannot be written.
function M.try_client_files(ctx)
  local ok, result = pcall(M.client_files, ctx)
  if ok then return result end
  if type(result) ~= "table" then error(result, 0) end
  ctx.note(("note: the clients' files are not up to date: %s%s"):format(result.message, result.hint and "\n  " .. result.hint or ""))
end

local function make(ctx, made_home, public, keep)
  local store, host = require "store", ctx.host
  local before = inside(ctx.home)
  local ok, code, fault = store.open(ctx.home, {})
  if ok then
    ctx.opened = true
    local missing = first_records()
    if #missing == 0 then return false, M.try_client_files(ctx) end
    db.change(function() return missing end)
    return true, M.client_files(ctx)
  end
  if code ~= "absent" then db.not_open(ctx.home, code, fault) end
  -- With a store directory it is an init that was cut off: creating goes on with it.
  if before[ctx.home .. "/key"] and not before[ctx.home .. "/store"] then
    report.fail(("%s has a key file but no store"):format(ctx.home),
      "restore a backup: sallyport restore FILE; or move the key file away to begin anew")
  end
  local made_folder
  local done, result = pcall(function()
    local dir, new = folder(ctx, public)
    made_folder = new and dir
    ok, code, fault = store.open(ctx.home, { create = true })
    if not ok then db.not_open(ctx.home, code, fault) end
    ctx.opened = true
    local missing = first_records(keep and public)
    if #missing > 0 then db.change(function() return missing end) end
    return M.client_files(ctx, dir)
  end)
  if done then return true, result end
  store.close()
  ctx.opened = false
  for _, path in ipairs(select(2, inside(ctx.home))) do
    if not before[path] then os.remove(path) end
  end
  for _, name in ipairs(made_folder and { "/ca.pem", "/bundle.pem", "" } or {}) do os.remove(made_folder .. name) end
  if made_home then os.remove(ctx.home) end
  error(result, 0)
end

--- Makes what is missing of a data directory; answers whether anything was, and the clients' files. It is all there
-- afterwards, or nothing that was not there before. Running it twice changes nothing, also at the same moment: under the
-- folder's lock, or each would take away what the other has made when it fails.
-- `public`: the clients' folder, else the usual one; `keep`: as the setting too.
function M.make(ctx, public, keep)
  local made_home = refuse_foreign(ctx)
  local lock <close>, why = ctx.host.lock(ctx.home, MAKE_MS)
  if why == "locked" then report.fail("another command is making " .. ctx.home, "wait for it, or end it") end
  if not lock then report.fail(("cannot use %s: %s"):format(ctx.home, why)) end
  if not ctx.host.stat(ctx.home) then report.fail(ctx.home .. " was being made by a command that failed", "try again") end
  return make(ctx, made_home, public, keep)
end

--- What comes after an empty data directory: for people who read nothing before.
function M.next_steps(ctx)
  local quote, lines = require("env").quote, {}
  local me = M.command(ctx)
  local default = ctx.host.getenv("SALLYPORT_HOME")
  if not default or default == "" then default = (ctx.host.getenv("HOME") or "") .. "/.sallyport" end
  if me ~= "sallyport" then lines[#lines + 1] = "  alias sallyport=" .. me end
  if default ~= ctx.home then lines[#lines + 1] = "  export SALLYPORT_HOME=" .. quote(ctx.home) end
  lines[#lines + 1] = [[
  sallyport credential add gh --preset github   # asks for the token
  sallyport agent add claude                    # prints the agent's own, once
  eval "$(sallyport env --agent claude)"        # in the agent's shell
%CURL%  sallyport explain --agent claude GET https://api.github.com/user
  sallyport log
]]
  return (table.concat(lines, "\n"):gsub("%%CURL%%", M.has(ctx, "curl") and
    '  curl -H "Authorization: Bearer $GH_TOKEN" https://api.github.com/user\n' or ""))
end

local LOCK_MAX = 2 << 20   -- listeners, and flags with their files

--- What the running proxy has written into its lock: { listen = {"127.0.0.1:7080", …}, flags = table } | nil.
function M.running(ctx)
  local text = ctx.host.lock_held(ctx.home) and ctx.host.read_file(ctx.home .. "/serve.lock", LOCK_MAX)
  if not text then return nil end
  local out = { listen = {} }
  for line in text:gmatch("[^\n]+") do
    if line:sub(1, 1) == "{" then
      out.flags = require("json").decode(line)
    else
      out.listen[#out.listen + 1] = line
    end
  end
  return out
end

--- HOST:PORT where clients on this machine find the proxy; opt.proxy says otherwise. And whether that is opt.agent's own.
function M.proxy_address(opt, ctx)
  local env = require "env"
  local running, listeners = M.running(ctx), require "cli.listeners"
  local all = require("records").settings(running and running.flags or nil)
  local function bound(address)
    return opt.agent and (listeners.bound(running and running.listen or all.listen, address, opt.agent)
      or listeners.bound(all.listen_tls or {}, address, opt.agent))
  end
  if opt.proxy then
    local at = opt.proxy:gsub("^https://", "")     -- TLS to the proxy itself: listen-tls
    if not at:find("^[%w._-]+:%d+$") and not at:find("^%[[%x:.]+%]:%d+$") then
      report.usage("--proxy is HOST:PORT, or https://HOST:PORT", "--proxy 127.0.0.1:7080")
    end
    return opt.proxy, bound(at)
  end
  -- Its listeners, with ports picked and flags obeyed.
  local listen, own = nil, nil
  if running then listen, own = listeners.dialled(running.listen, opt.agent) end
  if listen then return env.reach(listen), own end
  if not running then listen, own = listeners.dialled(all.listen, opt.agent) end
  if not listen then
    report.fail("the proxy has no address that clients could be given: it listens on Unix sockets, or for certain agents",
      "--proxy HOST:PORT names one; sallyport help doors says how clients use a socket")
  elseif listen:find(":0$") then
    report.fail("the proxy picks its port when it starts, so it must be named here",
      "--proxy HOST:PORT, as its `listening` line says")
  end
  if not ctx.host.lock_held(ctx.home) then ctx.note("note: the proxy does not run at the moment: sallyport serve") end
  return env.reach(listen), own
end

return M
