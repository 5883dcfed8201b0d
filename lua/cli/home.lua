--- The data directory: making one, and the files for clients in the readable folder beside it.
local db = require "cli.db"
local report = require "cli.report"
local M = {}

--- 0700 hides the data directory from agents' users, so what they need lies next to it.
function M.public(home) return home .. "-public" end

--- How the reader of an advice calls this program: with its path, unless the shell finds it.
function M.command(ctx)
  local arg0 = ctx.host.arg0 or "sallyport"
  local dir = arg0:match("^(.*)/[^/]*$")
  for d in (ctx.host.getenv("PATH") or ""):gmatch("[^:]+") do
    if d == dir then return "sallyport" end
  end
  return require("env").quote(arg0)
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

--- Where the folder is missing or a file differs (a new CA, new system roots), it is written again.
-- Answers the two paths.
function M.client_files(ctx)
  local host = ctx.host
  local ca = db.peek("meta", "ca", "the certificate authority")
  if not ca then report.fail("the data directory has no certificate authority", "sallyport init makes it") end
  local dir = M.public(ctx.home)
  local paths = { ca = dir .. "/ca.pem", bundle = dir .. "/bundle.pem" }
  local ok, why = host.mkdir(dir, tonumber("755", 8))
  if not ok and why ~= "exists" then report.fail(("cannot make %s: %s"):format(dir, why)) end
  -- Whoever may write there may swap the roots that every client trusts.
  local is = host.stat(dir)
  if not is or is.type ~= "dir" or is.uid ~= host.uid() or is.mode & 18 ~= 0 then
    report.fail(("%s is not a folder of ours alone to write"):format(dir),
      ("move it away, or: chown %d %s && chmod 755 %s"):format(host.uid(), dir, dir))
  end
  local roots_file = host.system_roots()
  local roots = roots_file and host.read_file(roots_file, 8 << 20)
  if not roots then
    ctx.note("note: no system roots found, so clients get our CA alone; install ca-certificates")
  end
  if roots and roots:sub(-1) ~= "\n" then roots = roots .. "\n" end
  for path, text in pairs { [paths.ca] = ca.pem, [paths.bundle] = (roots or "") .. ca.pem } do
    if host.read_file(path, 8 << 20) ~= text then
      ok, why = require("cli.files").write(host, path, text, tonumber("644", 8))
      if not ok then report.fail(("cannot write %s: %s"):format(path, why)) end
    end
  end
  return paths
end

local function refuse_foreign(ctx)
  local host = ctx.host
  local s, why = host.stat(ctx.home)
  if not s then
    if why ~= "absent" then report.fail(("cannot use %s: %s"):format(ctx.home, why)) end
    local ok
    ok, why = host.mkdir(ctx.home, tonumber("700", 8))
    if not ok then report.fail(("cannot make %s: %s"):format(ctx.home, why)) end
    return
  end
  if s.type ~= "dir" then report.fail(ctx.home .. " is not a directory", "--home DIR names another place") end
  if s.uid ~= host.uid() then report.fail(ctx.home .. " belongs to another user", "run this command as that user") end
  if s.mode & tonumber("077", 8) ~= 0 then
    report.fail(("%s can be read by others (mode %03o)"):format(ctx.home, s.mode),
      "chmod 700 it, or name another place with --home")
  end
end

--- Makes what is missing of a data directory; answers whether anything was. Running it twice changes nothing.
function M.make(ctx)
  local store, time = require "store", require "time"
  refuse_foreign(ctx)
  local ok, code, fault = store.open(ctx.home, {})
  local made = not ok and code == "absent"
  if made then
    -- With a store directory it is an init that was cut off: creating goes on with it.
    if ctx.host.stat(ctx.home .. "/key") and not ctx.host.stat(ctx.home .. "/store") then
      report.fail(("%s has a key file but no store"):format(ctx.home),
        "restore a backup: sallyport restore FILE; or move the key file away to begin anew")
    end
    ok, code, fault = store.open(ctx.home, { create = true })
  end
  if not ok then db.not_open(ctx.home, code, fault) end
  ctx.opened = true
  local missing = {}
  if not db.peek("meta", "ca", "the certificate authority") then
    local key, der = assert(ctx.host.ca_make())
    local base64 = require("secret").base64(der)
    local pem = "-----BEGIN CERTIFICATE-----\n" .. base64:gsub(("."):rep(64), "%0\n"):gsub("\n$", "")
      .. "\n-----END CERTIFICATE-----\n"
    local ca = require("cli.certificates").list(pem)[1]
    missing[#missing + 1] = { op = "put", db = "meta", key = "ca", version = 0, secrets = { key = key },
      plain = { pem = pem, der = base64, not_after = ca.not_after, sha256 = ca.sha256, created = time.wall() } }
  end
  if not db.peek("bundle", "default", "the bundle 'default'") then
    missing[#missing + 1] = { op = "put", db = "bundle", key = "default", version = 0,
      plain = { name = "default", created = time.wall() } }
  end
  if #missing > 0 then db.change(function() return missing end) end
  return made or #missing > 0, M.client_files(ctx)
end

--- What comes after an empty data directory: for people who read nothing before.
function M.next_steps(ctx)
  local quote, lines = require("env").quote, {}
  local me = M.command(ctx)
  local default = ctx.host.getenv("SALLYPORT_HOME") or (ctx.host.getenv("HOME") or "") .. "/.sallyport"
  if me ~= "sallyport" then lines[#lines + 1] = "  alias sallyport=" .. me end
  if default ~= ctx.home then lines[#lines + 1] = "  export SALLYPORT_HOME=" .. quote(ctx.home) end
  lines[#lines + 1] = [[
  sallyport credential add gh --preset github   # asks for the token
  sallyport agent add claude                    # prints the agent's own, once
  eval "$(sallyport env --agent claude)"        # in the agent's shell
  curl -H "Authorization: Bearer $GH_TOKEN" https://api.github.com/user
  sallyport explain --agent claude GET https://api.github.com/user
  sallyport log
]]
  return table.concat(lines, "\n")
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

return M
