//! Object Lock and ACLs. If there are no grants, only the owner has access, as in all new buckets.

use std::sync::Arc;
use std::time::SystemTime;

use hyper::StatusCode;
use s3s::dto::{
    DefaultRetention, GetObjectAclInput, GetObjectAclOutput, GetObjectLegalHoldInput,
    GetObjectLegalHoldOutput, GetObjectLockConfigurationInput, GetObjectLockConfigurationOutput,
    GetObjectRetentionInput, GetObjectRetentionOutput, Grant, Grantee, ObjectCannedACL,
    ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold, ObjectLockLegalHoldStatus,
    ObjectLockRetention, ObjectLockRetentionMode, ObjectLockRule, Permission, PutObjectAclInput,
    PutObjectAclOutput, PutObjectLegalHoldInput, PutObjectLegalHoldOutput, PutObjectRetentionInput,
    PutObjectRetentionOutput, Type,
};
use s3s::{S3Request, S3Response, S3Result};

use super::fields::{self, timestamp};
use super::list::owner;
use super::{Service, access};
use crate::bucket::Bucket;
use crate::condition;
use crate::object::Lock;
use crate::refusal::Refusal;

fn object_lock_disabled() -> Refusal {
    Refusal::invalid_request("Bucket is missing Object Lock Configuration")
}

fn no_lock() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "NoSuchObjectLockConfiguration",
        "The specified object does not have a ObjectLock configuration",
    )
}

impl Service {
    /// Returns a bucket with Object Lock.
    fn lockable(&self, bucket: &str) -> Result<Arc<Bucket>, Refusal> {
        let bucket = self.store.bucket(bucket)?;
        if bucket.object_lock {
            Ok(bucket)
        } else {
            Err(object_lock_disabled())
        }
    }

    fn lock_of(&self, bucket: &str, key: &str, version_id: Option<&str>) -> Result<Lock, Refusal> {
        let bucket = self.lockable(bucket)?;
        let object = bucket.read().resolve(key, version_id)?;
        Ok(object.attributes.lock.clone())
    }

    pub(super) fn retention(
        &self,
        request: S3Request<GetObjectRetentionInput>,
    ) -> S3Result<S3Response<GetObjectRetentionOutput>> {
        let input = request.input;
        let lock = self.lock_of(&input.bucket, &input.key, input.version_id.as_deref())?;
        let (mode, until) = lock.retention.ok_or_else(no_lock)?;
        let retention = ObjectLockRetention {
            mode: Some(ObjectLockRetentionMode::from(mode)),
            retain_until_date: timestamp(until),
        };
        Ok(S3Response::new(GetObjectRetentionOutput {
            retention: Some(retention),
        }))
    }

    pub(super) fn set_retention(
        &self,
        request: S3Request<PutObjectRetentionInput>,
    ) -> S3Result<S3Response<PutObjectRetentionOutput>> {
        let input = request.input;
        let bucket = self.lockable(&input.bucket)?;
        let retention = input.retention.unwrap_or_default();
        let mode = retention.mode.as_ref().map(ObjectLockRetentionMode::as_str);
        // An empty document removes the retention.
        let wanted = match (mode, &retention.retain_until_date) {
            (None, None) => Lock::default(),
            (mode, until) => fields::lock(mode, until.as_ref(), None, &bucket)?,
        };
        let bypass = input.bypass_governance_retention == Some(true);
        bucket.change(&input.key, input.version_id.as_deref(), |object| {
            let lock = &mut Arc::make_mut(&mut object.attributes).lock;
            if let Some((mode, until)) = lock
                .retention
                .as_ref()
                .filter(|(_, until)| *until > SystemTime::now())
            {
                let extends = wanted
                    .retention
                    .as_ref()
                    .is_some_and(|(to, time)| to == mode && time >= until);
                if !extends && (mode == "COMPLIANCE" || !bypass) {
                    return Err(Refusal::access_denied());
                }
            }
            lock.retention = wanted.retention;
            Ok(())
        })?;
        Ok(S3Response::new(PutObjectRetentionOutput::default()))
    }

    pub(super) fn legal_hold(
        &self,
        request: S3Request<GetObjectLegalHoldInput>,
    ) -> S3Result<S3Response<GetObjectLegalHoldOutput>> {
        let input = request.input;
        let lock = self.lock_of(&input.bucket, &input.key, input.version_id.as_deref())?;
        let on = lock.legal_hold.ok_or_else(no_lock)?;
        let status = if on {
            ObjectLockLegalHoldStatus::ON
        } else {
            ObjectLockLegalHoldStatus::OFF
        };
        let hold = ObjectLockLegalHold {
            status: Some(ObjectLockLegalHoldStatus::from_static(status)),
        };
        Ok(S3Response::new(GetObjectLegalHoldOutput {
            legal_hold: Some(hold),
        }))
    }

    pub(super) fn set_legal_hold(
        &self,
        request: S3Request<PutObjectLegalHoldInput>,
    ) -> S3Result<S3Response<PutObjectLegalHoldOutput>> {
        let input = request.input;
        let bucket = self.lockable(&input.bucket)?;
        let status = input
            .legal_hold
            .and_then(|hold| hold.status)
            .ok_or_else(Refusal::malformed_xml)?;
        bucket.change(&input.key, input.version_id.as_deref(), |object| {
            let lock = &mut Arc::make_mut(&mut object.attributes).lock;
            lock.legal_hold = Some(status.as_str() == ObjectLockLegalHoldStatus::ON);
            Ok(())
        })?;
        Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
    }

    pub(super) fn lock_configuration(
        &self,
        request: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        let bucket = self.store.bucket(&request.input.bucket)?;
        if !bucket.object_lock {
            return Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "ObjectLockConfigurationNotFoundError",
                "Object Lock configuration does not exist for this bucket",
            )
            .with("BucketName", &bucket.name)
            .into());
        }
        let rule = bucket
            .retention
            .as_ref()
            .map(|(mode, days)| ObjectLockRule {
                default_retention: Some(DefaultRetention {
                    mode: Some(ObjectLockRetentionMode::from(mode.clone())),
                    days: i32::try_from(*days).ok(),
                    years: None,
                }),
            });
        let configuration = ObjectLockConfiguration {
            object_lock_enabled: Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED)),
            rule,
        };
        Ok(S3Response::new(GetObjectLockConfigurationOutput {
            object_lock_configuration: Some(configuration),
        }))
    }

    pub(super) fn acl(
        &self,
        request: S3Request<GetObjectAclInput>,
    ) -> S3Result<S3Response<GetObjectAclOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let object = bucket
            .read()
            .resolve(&input.key, input.version_id.as_deref())?;
        let grants = match object.attributes.grants.as_slice() {
            [] => vec![grant("FULL_CONTROL", &bucket.owner)],
            grants => grants
                .iter()
                .map(|given| grant(&given.permission, &given.grantee))
                .collect(),
        };
        Ok(S3Response::new(GetObjectAclOutput {
            owner: Some(owner(&bucket)),
            grants: Some(grants),
            request_charged: None,
        }))
    }

    pub(super) fn set_acl(
        &self,
        request: S3Request<PutObjectAclInput>,
    ) -> S3Result<S3Response<PutObjectAclOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        if input.access_control_policy.is_some() && bucket.acls {
            let message = "The sandbox accepts ACLs only in headers";
            return Err(Refusal::not_implemented(message, "AccessControlPolicy").into());
        }
        // If ACLs are disabled, a document is refused like a header.
        let policy = input.access_control_policy.as_ref().map(|_| "id=document");
        let grants = access::grants(
            input.acl.as_ref().map(ObjectCannedACL::as_str),
            [
                (
                    "FULL_CONTROL",
                    input.grant_full_control.as_deref().or(policy),
                ),
                ("READ", input.grant_read.as_deref()),
                ("READ_ACP", input.grant_read_acp.as_deref()),
                ("WRITE_ACP", input.grant_write_acp.as_deref()),
            ],
            &bucket,
        )?;
        bucket.change(&input.key, input.version_id.as_deref(), |object| {
            Arc::make_mut(&mut object.attributes).grants = grants;
            Ok(())
        })?;
        Ok(S3Response::new(PutObjectAclOutput::default()))
    }
}

/// Returns a grant in the type of the API.
fn grant(permission: &str, grantee: &str) -> Grant {
    let group = grantee.starts_with("http://");
    Grant {
        grantee: Some(Grantee {
            id: (!group).then(|| grantee.to_owned()),
            type_: Type::from_static(if group {
                Type::GROUP
            } else {
                Type::CANONICAL_USER
            }),
            display_name: None,
            email_address: None,
            uri: group.then(|| grantee.to_owned()),
        }),
        permission: Some(Permission::from(permission.to_owned())),
    }
}

/// Returns the end of a retention period that begins now.
pub(super) fn retained_for(days: u32) -> SystemTime {
    condition::now() + std::time::Duration::from_secs(u64::from(days) * 86_400)
}
