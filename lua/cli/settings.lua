--- Reading a setting's value, for `set` and for the flags of `serve`.
local report = require "cli.report"
local M = {}

local function file(ctx, path, label)
  local full = ctx.host.realpath(path)
  if not full then report.fail(("%s: there is no file %s"):format(label, report.clean(path))) end
  if not utf8.len(full) then report.fail(("%s: the name of that file is not UTF-8"):format(label)) end
  local n, why = ctx.host.pem_check { full }
  if not n then report.fail(("%s: %s holds no certificate: %s"):format(label, full, why), "it wants PEM") end
  return full
end

--- `given` is a text, or a list of them for a setting with many values.
function M.read(ctx, setting, given, label)
  local list = {}
  for i, text in ipairs(type(given) == "table" and given or { given }) do
    local value, why
    if setting.file then
      value = file(ctx, text, label)
    elseif setting.path then      -- no symbolic link is resolved: who renews a certificate changes where it leads
      if not ctx.host.stat(text, true) then report.fail(("%s: there is no file %s"):format(label, report.clean(text))) end
      value, why = setting.check(text:sub(1, 1) == "/" and text or ctx.host.realpath(".") .. "/" .. text)
    else
      value, why = setting.check(text)
    end
    if value == nil then report.usage(("%s: %s"):format(label, why)) end
    if setting.place then
      local ok, bad, hint = require("cli.log_place").check(ctx, value)
      if not ok then report.fail(("%s: %s"):format(label, bad), hint) end
    elseif setting.public then
      local ok, bad = require("cli.home").check_public(ctx, value)
      if not ok then report.usage(("%s: %s"):format(label, bad)) end
    elseif setting.group and not require("cli.log_place").group(ctx.host, value) then
      report.fail(("%s: there is no group '%s' in /etc/group"):format(label, value), "name one, or its number")
    end
    list[i] = value
  end
  if setting.many then return list end
  return list[1]
end

--- As the person would type it.
function M.show(setting, value)
  if value == nil then return "" end
  if setting.show then return setting.show(value) end
  if type(value) == "boolean" then return value and "on" or "off" end
  if type(value) == "table" then return table.concat(value, " ") end
  return tostring(value)
end

return M
