-- The rules of ARCHER2 that slurm.conf cannot express. The rules are its documentation's; the words are ours.

-- Slurm's ways to say "not given", in 32 and in 16 bits
local function given(number)
   return number ~= nil and number ~= slurm.NO_VAL and number ~= 65534
end

local function text(value)
   return value ~= nil and value ~= ""
end

local function refuse(why, code)
   slurm.log_user("testbed: " .. why)
   return code or slurm.ERROR
end

function slurm_job_submit(job, partitions, uid)
   if not text(job.account) then return refuse("no budget: give --account", slurm.ESLURM_INVALID_ACCOUNT) end
   if not text(job.partition) then return refuse("no partition: give --partition") end
   if not text(job.qos) then return refuse("no quality of service: give --qos") end
   if not given(job.time_limit) then return refuse("no wall time: give --time", slurm.ESLURM_MISSING_TIME_LIMIT) end
   if job.qos == "long" and job.time_limit <= 24 * 60 then return refuse("qos long is for more than 24 hours") end
   if job.partition ~= "gpu" then return slurm.SUCCESS end

   local gpus = text(job.tres_per_job) or text(job.tres_per_node) or text(job.tres_per_task) or text(job.tres_per_socket)
   if not gpus then return refuse("a job in partition gpu needs --gpus") end
   if job.qos == "gpu-exc" and job.shared ~= 0 then return refuse("qos gpu-exc needs --exclusive") end
   -- for srun on its own these are the only place to say it
   if text(job.script) and (given(job.num_tasks) or given(job.cpus_per_task)) then
      return refuse("a batch job in partition gpu takes no --ntasks and no --cpus-per-task: give them to srun")
   end
   return slurm.SUCCESS
end

function slurm_job_modify(job, record, partitions, uid)
   return slurm.SUCCESS
end

return slurm.SUCCESS
