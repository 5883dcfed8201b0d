--- Where the request log lies, and whether that is a place for it.
local report = require "cli.report"
local M = {}

local MEMORY_MAX = 8 << 20       -- of a log in memory: some 25,000 records
local GROUPS_MAX = 1 << 20
local MEMORY = "/dev/shm"
local LINE_MAX = 4096
local BEGINS = '{"time":'

--- A group's number, by its name in /etc/group or as it stands; nil: there is none.
function M.group(host, name)
  local id = name:find("^%d+$") and #name < 10 and math.tointeger(tonumber(name))
  if id then return id end
  for line in (host.read_file("/etc/group", GROUPS_MAX) or ""):gmatch("[^\n]+") do
    local named, number = line:match("^([^:]*):[^:]*:(%d+):")
    if named == name then return math.tointeger(tonumber(number)) end
  end
end

-- Server and commands agree on the folder by the data directory's inode; it is made by `serve`.
local function memory_folder(ctx)
  local st = ctx.host.stat(ctx.host.realpath(ctx.home) or ctx.home)
  return st and ("%s/sallyport-%d-%x"):format(MEMORY, ctx.host.uid(), st.inode)
end

--- The file by these settings (records.settings).
function M.path(ctx, all)
  if all.log == "memory" then return (memory_folder(ctx) or MEMORY) .. "/requests.jsonl" end
  return all.log_file or (ctx.host.realpath(ctx.home) or ctx.home) .. "/log/requests.jsonl"
end

--- The file of the running proxy, or of the next one.
function M.current(ctx)
  local running = require("cli.home").running(ctx)
  local flags = running and running.flags or nil
  return flags and flags.log_path or M.path(ctx, require("records").settings(flags))
end

-- "folder" -> its stat, or nil and what is wrong with it.
local function folder(host, dir)
  local st, why = host.stat(dir)
  if not st then return nil, ("%s: %s"):format(dir, why == "absent" and "there is no such folder" or why),
    ("as root: install -d -m 750 -o %d %s"):format(host.uid(), dir) end
  if st.type ~= "dir" then return nil, dir .. " is not a folder" end
  if st.mode & 2 ~= 0 then return nil, ("everybody may put files into %s"):format(dir), "give the log a folder of its own" end
  return st
end

-- Is what stands there the beginning of a log, if only of a torn record?
local function is_log(f)
  local first = (f:read(LINE_MAX) or ""):match("^[^\n]*")
  return first:sub(1, #BEGINS) == BEGINS:sub(1, #first)
end

--- true, or nil, what is wrong, and what to do: may a log be written there?
function M.check(ctx, path)
  local host = ctx.host
  local dir = path:match("^(.+)/[^/]+$")
  if not dir or path:find("%c") or not utf8.len(path) or #path > 3000 then
    return nil, "a log is named from the root: /var/log/sallyport/requests.jsonl"
  end
  local ok, why, hint = folder(host, dir)
  if not ok then return nil, why, hint end
  -- A log is renamed, removed and given to a group: not what the store, its locks or its key are.
  local home, real = host.realpath(ctx.home), host.realpath(dir)
  if home and real and (real .. "/"):sub(1, #home + 1) == home .. "/" and (real .. "/"):sub(1, #home + 5) ~= home .. "/log/" then
    return nil, ("%s is among the data directory's own files"):format(path), "in there a log lies in " .. home .. "/log"
  end
  local st = host.stat(path)
  if st and (st.type ~= "file" or st.uid ~= host.uid()) then
    return nil, ("%s is %s"):format(path, st.type ~= "file" and "not a plain file" or "somebody else's")
  end
  local f, bad = host.open_append(path, -1)
  if not f then return nil, bad end
  local log <const> = is_log(f)
  f:close()
  if not log then return nil, path .. " holds something else than a request log", "name a file that is not there yet" end
  return true
end

--- What the writer needs (lua/reqlog.lua), all checked; makes the folder of a log in memory. Or it ends the command.
function M.prepare(ctx, all)
  local host, path = ctx.host, M.path(ctx, all)
  if all.log == "memory" then
    local dir = path:match("^(.+)/")
    host.mkdir(dir, tonumber("700", 8))
    local st = host.stat(dir)
    if not st or st.type ~= "dir" or st.uid ~= host.uid() or st.mode & tonumber("77", 8) ~= 0 then
      report.fail(("log memory: %s cannot be made, or is not ours alone"):format(dir), "sallyport set log file")
    end
  end
  local ok, why, hint = M.check(ctx, path)
  if not ok then report.fail("the request log: " .. why, hint or "sallyport set log-file FILE") end
  local group = -1
  if all.log_group then
    group = M.group(host, all.log_group)
    if not group then report.fail(("log-group: there is no group '%s' in /etc/group"):format(all.log_group),
      "name one, or its number") end
  end
  return { path = path, age = all.log_age, group = group,
    size = all.log == "memory" and math.min(all.log_size, MEMORY_MAX) or all.log_size }
end

local TRIES = 20        -- a rotation takes far less than the time between two

-- Appends a line to the file that has this name when it is written: true | nil, why
local function append(host, path, group, line)
  for _ = 1, TRIES do
    local before = host.stat(path)
    local f, why = host.open_append(path, group)
    if not f then return nil, why end
    local now = host.stat(path)
    f:setvbuf("no")
    local size = f:seek("end")
    local torn = size > 0 and f:seek("set", size - 1) and f:read(1) ~= "\n"      -- what a full disk left
    local ok
    if before and now and before.inode == now.inode then
      ok, why = f:write(torn and "\n" .. line or line)
      now = host.stat(path)
    end
    f:close()
    if why then return nil, why end
    -- Moved away before it was written, a rotation may have read it already.
    if ok and now and now.inode == before.inode then return true end
  end
  return nil, "it is moved away all the time"
end

--- Adds a command's record (JSON) to the log, whether a proxy runs or not: true | nil, why. Beside the log's own process a command
-- alone writes there, one line in one write.
function M.add(ctx, record)
  local running = require("cli.home").running(ctx)
  local flags = running and running.flags or nil
  local all = require("records").settings(flags)
  local path, group = flags and flags.log_path, all.log_group and M.group(ctx.host, all.log_group) or -1
  if not path then
    local ok, with = pcall(M.prepare, ctx, all)
    if not ok then return nil, type(with) == "table" and with.message or with end
    path, group = with.path, with.group
  end
  return append(ctx.host, path, group, record .. "\n")
end

--- The folder on the way to `path` that members of group `gid` cannot enter; nil: they reach it.
function M.closed_to(host, path, gid)
  local at = ""
  for part in path:match("^(.*)/"):gmatch("[^/]+") do
    at = at .. "/" .. part
    local st = host.stat(at)
    if st and st.type == "dir" and st.mode & 1 == 0 and not (st.gid == gid and st.mode & 8 ~= 0) then return at end
  end
end

return M
