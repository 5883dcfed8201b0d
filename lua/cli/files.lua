--- Files of commands: those that they read, and those that they leave.
local M = {}

local ABSENT = { [2] = true, [20] = true }      -- ENOENT, ENOTDIR

--- The whole file, of at most `max` bytes | nil, "absent" | nil, "too_large" | nil, why
function M.read(path, max)
  local file, why, code = io.open(path, "rb")
  if not file then return nil, ABSENT[code] and "absent" or why:gsub("^.*: ", "") end
  local text
  text, why = file:read(max + 1)
  file:close()
  if why then return nil, why end
  if text and #text > max then return nil, "too_large" end
  return text or ""
end

--- A body as it is typed: TEXT, @FILE or "-" for standard input; on a page it is a text. Whoever gave more than `max` bytes, or what cannot
-- be read, is told so. hint: what may be done about the bound.
function M.body(ctx, given, max, hint)
  local report = require "cli.report"
  local path = not ctx.page and given:match("^@(.*)$")
  local text, why = given, nil
  if path then
    text, why = ctx.host.read_file(path, max)
  elseif given == "-" and not ctx.page then
    text = io.stdin:read(max + 1) or ""
  end
  if text and #text > max then text, why = nil, "too_large" end
  if text then return text end
  local what = path and ("cannot read %s: "):format(report.clean(path)) or "the body is not taken: "
  local said = { absent = "there is no such file", too_large = ("it has more than %s"):format(require("records").show_size(max)) }
  report.fail(what .. (said[why] or tostring(why)), why == "too_large" and hint or nil)
end

--- What lies in a folder; none where it cannot be read.
function M.names(path)
  local out, pipe <close> = {}, io.popen("LC_ALL=C exec ls -A1 " .. require("env").quote(path) .. " 2>/dev/null")
  for name in pipe:lines() do out[#out + 1] = name end
  return out
end

--- Whole or not at all, and on the disk when it returns: true | nil, why. The folder may be an agent's (`--out`), who may lay
-- a link, a pipe or a file of its own in the way: what stands under the name must be a plain file, and what takes its place
-- is made anew beside it, under a name that nobody could foresee.
function M.write(host, path, text, mode)
  local there = host.stat(path)
  if there and there.type ~= "file" then return nil, "what stands there is no plain file" end
  local tmp = ("%s.%s"):format(path, host.random_token(""):sub(1, 16))
  local file, why = host.create(tmp, mode)
  if not file then return nil, why == "absent" and "there is no such folder" or why end
  local ok
  ok, why = file:write(text)
  if ok then ok, why = file:flush() end
  if ok then ok, why = host.sync(tmp) end
  file:close()
  if ok then ok, why = os.rename(tmp, path) end
  if ok then return true end
  os.remove(tmp)
  return nil, why
end

return M
